//! Moments at which a test has this process die, or a sync to disk fail: `SYNCCTL_FAILPOINT=NAME[:N]`, by N at the Nth one.
//!
//! The environment is read once. Without the variable a point costs one load.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Such a moment; the steps of a commit, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// A file was written beside its target and has its attributes.
    AfterWrite,
    /// A batch of such files is on disk.
    AfterSync,
    /// One of them took its place.
    AfterRename,
    /// The renames are on disk.
    AfterDirsync,
    /// What is known of a root was saved.
    AfterIndex,
    /// A sync to disk is about to be made: it fails with EIO instead, each of them from the Nth to the Mth (`:N-M`).
    SyncFails,
}

impl Point {
    fn named(name: &str) -> Option<Self> {
        match name {
            "after-write" => Some(Self::AfterWrite),
            "after-sync" => Some(Self::AfterSync),
            "after-rename" => Some(Self::AfterRename),
            "after-dirsync" => Some(Self::AfterDirsync),
            "after-index" => Some(Self::AfterIndex),
            "sync-fails" => Some(Self::SyncFails),
            _ => None,
        }
    }
}

/// A point, and which of its hits are meant.
#[derive(Debug)]
struct Chosen {
    point: Point,
    first: u64,
    last: u64,
    hits: AtomicU64,
}

impl Chosen {
    /// None: no such point, or no such number. A misspelt one must not pass for a process that lived on.
    fn parse(text: &str) -> Option<Self> {
        let (name, hits) = text.split_once(':').unwrap_or((text, "1"));
        let (first, last) = hits.split_once('-').unwrap_or((hits, hits));
        Some(Self {
            point: Point::named(name)?,
            first: first.parse().ok()?,
            last: last.parse().ok()?,
            hits: AtomicU64::new(0),
        })
    }

    fn hit(&self, point: Point) -> bool {
        self.point == point && {
            let n = self.hits.fetch_add(1, Ordering::Relaxed) + 1;
            (self.first..=self.last).contains(&n)
        }
    }
}

fn chosen() -> Option<&'static Chosen> {
    static CHOSEN: OnceLock<Option<Chosen>> = OnceLock::new();
    let read = || {
        let text = std::env::var("SYNCCTL_FAILPOINT").ok()?;
        let chosen = Chosen::parse(&text);
        if chosen.is_none() {
            die();
        }
        chosen
    };
    CHOSEN.get_or_init(read).as_ref()
}

/// Dies here, when a test asked for that.
pub fn hit(point: Point) {
    if chosen().is_some_and(|chosen| chosen.hit(point)) {
        die();
    }
}

/// Fails here, when a test asked for that.
pub fn fail(point: Point) -> io::Result<()> {
    match chosen() {
        Some(chosen) if chosen.hit(point) => Err(io::Error::from_raw_os_error(libc::EIO)),
        _ => Ok(()),
    }
}

/// As by `kill -9`: nothing is flushed, nothing is cleaned up.
fn die() {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_hit_at_the_times_that_were_chosen() {
        let second = Chosen::parse("after-rename:2").expect("a point");
        assert!(!second.hit(Point::AfterSync));
        let hits: Vec<bool> = (0..3).map(|_| second.hit(Point::AfterRename)).collect();
        assert_eq!(hits, [false, true, false]);
        let some = Chosen::parse("sync-fails:2-3").expect("points");
        let hits: Vec<bool> = (0..4).map(|_| some.hit(Point::SyncFails)).collect();
        assert_eq!(hits, [false, true, true, false]);
        assert!(Chosen::parse("after-write").expect("a point").hit(Point::AfterWrite));
        for wrong in ["", "after", "after-write:", "after-write:x", "after-write:1-"] {
            assert!(Chosen::parse(wrong).is_none(), "{wrong}");
        }
    }
}
