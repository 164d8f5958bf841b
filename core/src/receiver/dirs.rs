//! The directories of the list, and what is at the destination in their places.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::list::Entry;

/// What is at the destination where the list has a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Here {
    /// Made by this session: known to be empty but for what it puts there.
    New,
    /// It was there.
    Existing,
    /// Nothing, in a dry run.
    Absent,
    /// It cannot be made or entered: a problem was reported, what is below is skipped.
    Blocked,
}

/// Which parts of a directory's listing came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parts {
    /// None yet.
    None,
    /// The first, not yet the last.
    Some,
    /// All.
    All,
}

/// A directory of the list.
pub struct Dir {
    pub path: Box<[u8]>,
    pub here: Here,
    /// Whether it is yet to be made: a new one is, when its listing comes.
    pub due: bool,
    pub mode: u16,
    pub mtime_s: i64,
    pub mtime_ns: u32,
    pub uid: u32,
    pub gid: u32,
    /// Its mode, time or owner at the destination differ from the list's.
    pub differs: bool,
    /// Something inside was changed by us, so that its time must be set again. Shared with the workers.
    pub touched: Arc<AtomicBool>,
    pub parts: Parts,
    /// Its listing had no read error.
    pub complete: bool,
    /// While its parts come: names at the destination that were not listed yet. Afterwards: what is extra there.
    pub unlisted: HashSet<Box<[u8]>>,
    /// While its parts come, when there are several: the names listed so far, to find duplicates.
    pub listed: HashSet<Box<[u8]>>,
    /// While its parts come: partials of ours found in it, by stem.
    pub partials: HashMap<Box<[u8]>, Vec<u8>>,
}

/// All directories of the list, in its order: parents before children.
#[derive(Default)]
pub struct Dirs {
    pub list: Vec<Dir>,
    by_path: HashMap<Box<[u8]>, u32>,
    /// Bytes of paths held, and of the list that they came from.
    held: u64,
    listed: u64,
}

/// Paths of an honest list, below this, are never too long for it.
const HELD_MIN: u64 = 128 << 20;
/// Bytes of paths that one byte of a list may make us hold. An entry takes 30 bytes and more of a list, so an average
/// path of 1,900 bytes is allowed; a directory at the bottom of 64 KiB of path, listed a million times over, is not.
const HELD_FACTOR: u64 = 64;

impl Dirs {
    /// A chunk of so many bytes is about to be compared.
    pub fn listed(&mut self, bytes: u64) {
        self.listed += bytes;
    }

    /// Whether the list makes us hold more than it could honestly need.
    pub fn bloated(&self) -> bool {
        self.held > HELD_MIN + HELD_FACTOR * self.listed
    }

    /// Adds a listed directory. None when it was listed before.
    pub fn add(&mut self, path: &[u8], entry: &Entry<'_>, here: Here, differs: bool) -> Option<u32> {
        let n = self.list.len() as u32;
        if self.by_path.insert(path.into(), n).is_some() {
            return None;
        }
        self.held += path.len() as u64;
        self.list.push(Dir {
            path: path.into(),
            here,
            due: false,
            mode: entry.mode,
            mtime_s: entry.mtime_s,
            mtime_ns: entry.mtime_ns,
            uid: entry.uid,
            gid: entry.gid,
            differs,
            touched: Arc::new(AtomicBool::new(here == Here::New)),
            parts: Parts::None,
            complete: true,
            unlisted: HashSet::new(),
            listed: HashSet::new(),
            partials: HashMap::new(),
        });
        Some(n)
    }

    /// The number of the listed directory `path`.
    pub fn find(&self, path: &[u8]) -> Option<u32> {
        self.by_path.get(path).copied()
    }

    /// Notes that something inside directory `n` was changed.
    pub fn touch(&self, n: u32) {
        self.list[n as usize].touched.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_cannot_make_us_hold_far_more_than_it_is() {
        let entry = Entry {
            kind: crate::list::DIRECTORY,
            mode: 0o755,
            size: 0,
            mtime_s: 0,
            mtime_ns: 0,
            uid: 0,
            gid: 0,
            name: b"",
            target: b"",
            hash: [0; 32],
        };
        let add = |length: usize, limit: u32| {
            let mut dirs = Dirs::default();
            let mut path = vec![b'x'; length];
            for i in 0..limit {
                dirs.listed(32);
                path[..4].copy_from_slice(&i.to_be_bytes());
                let _ = dirs.add(&path, &entry, Here::Blocked, false);
                if dirs.bloated() {
                    return i;
                }
            }
            limit
        };
        assert_eq!(add(200, 100_000), 100_000);
        assert!(add(65_000, 10_000) < 2_200);
    }
}
