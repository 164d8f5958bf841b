//! Where a session's time goes: what its threads spend in each stage, and when. Without profiling no clock is read.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

macro_rules! stages {
    ($($(#[$about:meta])* $stage:ident = $name:literal,)*) => {
        /// What a thread does.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Stage { $($(#[$about])* $stage),* }

        /// The names, in the order of `Stage`; `docs/cli.md` explains them.
        const NAMES: &[&str] = &[$($name),*];
    };
}

stages!(
    /// Nothing: it waits for work.
    Idle = "idle",
    /// Lists the source: directories, attributes, chunks.
    Walk = "walk",
    /// Opens and reads files, and puts them into batches.
    Read = "read",
    /// Hashes content: to say what it is, or to verify.
    Hash = "hash",
    /// Finds what changed against a basis, or rebuilds a file from one.
    Delta = "delta",
    /// Packs payloads.
    Compress = "compress",
    /// Unpacks them.
    Decompress = "decompress",
    /// Compares the list with the destination; makes directories and symlinks.
    Compare = "compare",
    /// Computes signatures.
    Sign = "sign",
    /// Takes data apart, and keeps the books.
    Apply = "apply",
    /// Makes temporary files and writes them.
    Write = "write",
    /// Sets owners, modes and times.
    Metadata = "metadata",
    /// Renames into place.
    Rename = "rename",
    /// Has the kernel put on disk what was written and renamed.
    Sync = "sync",
    /// Clears up at the end: deletions, what was moved aside.
    Finish = "finish",
);

/// (name, ns that threads spent, first and last moment in ns since the profile began) of a stage.
pub type Row = (&'static str, (u64, u64, u64));

/// The stages of one engine.
pub struct Profile {
    /// None: nobody asked.
    began: Option<Instant>,
    spans: Vec<Span>,
}

struct Span {
    spent: AtomicU64,
    first: AtomicU64,
    last: AtomicU64,
}

impl Default for Span {
    fn default() -> Self {
        Self {
            spent: AtomicU64::new(0),
            first: AtomicU64::new(u64::MAX),
            last: AtomicU64::new(0),
        }
    }
}

thread_local! {
    /// What the stage that this thread is in has left to stages within it, in ns.
    static WITHIN: Cell<u64> = const { Cell::new(0) };
}

impl Profile {
    /// Begins now, when it is `on`.
    pub fn new(on: bool) -> Self {
        Self {
            began: on.then(Instant::now),
            spans: NAMES.iter().map(|_| Span::default()).collect(),
        }
    }

    /// Does `work` as a part of `stage`. Stages nest: the time of an inner one is not the outer one's.
    #[inline]
    pub fn time<T>(&self, stage: Stage, work: impl FnOnce() -> T) -> T {
        match self.began {
            None => work(),
            Some(began) => self.timed(began, stage, work),
        }
    }

    fn timed<T>(&self, began: Instant, stage: Stage, work: impl FnOnce() -> T) -> T {
        let now = || began.elapsed().as_nanos() as u64;
        let outer = WITHIN.replace(0);
        let first = now();
        let done = work();
        let last = now();
        let inner = WITHIN.replace(outer + (last - first));
        let span = &self.spans[stage as usize];
        span.spent
            .fetch_add((last - first).saturating_sub(inner), Ordering::Relaxed);
        span.first.fetch_min(first, Ordering::Relaxed);
        span.last.fetch_max(last, Ordering::Relaxed);
        done
    }

    /// The stages that were entered and left.
    pub fn rows(&self) -> Vec<Row> {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let named = NAMES.iter().zip(&self.spans);
        named
            .map(|(name, span)| (*name, (get(&span.spent), get(&span.first), get(&span.last))))
            .filter(|(_, (_, first, _))| *first != u64::MAX)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inner_stage_is_not_counted_twice() {
        let profile = Profile::new(true);
        let spin = || {
            let until = Instant::now();
            while until.elapsed().as_micros() < 200 {}
        };
        profile.time(Stage::Apply, || {
            profile.time(Stage::Hash, spin);
            spin();
            profile.time(Stage::Write, || profile.time(Stage::Rename, spin));
        });
        let rows = profile.rows();
        let row = |name| rows.iter().find(|row| row.0 == name).expect(name).1;
        let (apply, hash, write, rename) = (row("apply"), row("hash"), row("write"), row("rename"));
        assert_eq!(rows.len(), 4);
        assert_eq!(apply.0 + hash.0 + write.0 + rename.0, apply.2 - apply.1);
        assert!(apply.1 <= hash.1 && hash.2 <= write.1 && write.1 <= rename.1 && rename.2 <= apply.2);
        assert!(hash.0 >= 200_000 && rename.0 >= 200_000);
    }

    #[test]
    fn nothing_is_told_that_nobody_asked_for() {
        let profile = Profile::new(false);
        assert_eq!(profile.time(Stage::Walk, || 7), 7);
        assert!(profile.rows().is_empty());
    }
}
