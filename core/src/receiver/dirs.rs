//! The directories of the list, and what is at the destination in their places.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::beneath::split;
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

/// Which parts of a directory's complete listing came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parts {
    /// None, and none has to.
    Unasked,
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
    /// It was read, and there was something in it.
    pub occupied: bool,
    /// Whether it is yet to be made: a new one is, when its listing comes.
    pub due: bool,
    pub mode: u16,
    pub mtime_s: i64,
    pub mtime_ns: u32,
    pub uid: u32,
    pub gid: u32,
    /// It, or a directory that it is in, was renamed by this session: what is the same in it is new to whoever watches.
    pub moved: bool,
    /// Its mode, time or owner at the destination differ from the list's.
    pub differs: bool,
    /// Something inside was changed by us, so that its time must be set again. Shared with the workers.
    pub touched: Arc<AtomicBool>,
    pub parts: Parts,
    /// Its listing had no read error.
    pub complete: bool,
    /// Its listing named nothing so far.
    pub empty: bool,
    /// While its parts come: names at the destination that were not listed yet. Afterwards: what is extra there.
    /// What is GONE in the source is extra, too.
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
    /// Those of which the list said later that they are none, or gone.
    retracted: HashSet<Box<[u8]>>,
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

    /// Adds a listed directory, whose complete listing is to follow or not. What was said of it before gives way to what
    /// is said now. None when its listing has begun and not ended.
    pub fn add(&mut self, path: &[u8], entry: &Entry<'_>, here: Here, differs: bool, listing: bool) -> Option<u32> {
        let parts = if listing { Parts::None } else { Parts::Unasked };
        if let Some(n) = self.find(path) {
            self.retracted.remove(path);
            let dir = &mut self.list[n as usize];
            match (listing, dir.parts) {
                (true, Parts::Some) => return None,
                (true, _) => dir.parts = parts,
                (false, _) => {}
            }
            (dir.here, dir.differs) = (here, differs);
            (dir.mode, dir.uid, dir.gid) = (entry.mode, entry.uid, entry.gid);
            (dir.mtime_s, dir.mtime_ns) = (entry.mtime_s, entry.mtime_ns);
            dir.touched.fetch_or(here == Here::New, Ordering::AcqRel);
            return Some(n);
        }
        let n = self.list.len() as u32;
        self.by_path.insert(path.into(), n);
        self.held += path.len() as u64;
        self.list.push(Dir {
            path: path.into(),
            here,
            occupied: false,
            due: false,
            moved: false,
            mode: entry.mode,
            mtime_s: entry.mtime_s,
            mtime_ns: entry.mtime_ns,
            uid: entry.uid,
            gid: entry.gid,
            differs,
            touched: Arc::new(AtomicBool::new(here == Here::New)),
            parts,
            complete: true,
            empty: true,
            unlisted: HashSet::new(),
            listed: HashSet::new(),
            partials: HashMap::new(),
        });
        Some(n)
    }

    /// What was listed as a directory is none after all, or gone.
    pub fn retract(&mut self, path: &[u8]) {
        if self.by_path.contains_key(path) {
            self.retracted.insert(path.into());
        }
    }

    /// Whether the directory `path`, or one that it is in, was retracted.
    pub fn is_retracted(&self, mut path: &[u8]) -> bool {
        while !self.retracted.is_empty() && !path.is_empty() {
            if self.retracted.contains(path) {
                return true;
            }
            path = split(path).0;
        }
        false
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

    const ENTRY: Entry<'_> = Entry {
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

    #[test]
    fn a_list_cannot_make_us_hold_far_more_than_it_is() {
        let add = |length: usize, limit: u32| {
            let mut dirs = Dirs::default();
            let mut path = vec![b'x'; length];
            for i in 0..limit {
                dirs.listed(32);
                path[..4].copy_from_slice(&i.to_be_bytes());
                let _ = dirs.add(&path, &ENTRY, Here::Blocked, false, true);
                if dirs.bloated() {
                    return i;
                }
            }
            limit
        };
        assert_eq!(add(200, 100_000), 100_000);
        assert!(add(65_000, 10_000) < 2_200);
    }

    #[test]
    fn what_is_said_later_of_a_directory_holds() {
        let mut dirs = Dirs::default();
        let entry = |mode| Entry { mode, ..ENTRY };
        let first = dirs.add(b"a/b", &entry(0o700), Here::New, false, false);
        assert_eq!(dirs.add(b"a/b", &entry(0o755), Here::Existing, true, true), first);
        let dir = &mut dirs.list[0];
        assert_eq!((dir.mode, dir.here, dir.parts), (0o755, Here::Existing, Parts::None));
        assert!(dir.differs && dir.touched.load(Ordering::Acquire));
        // A listing that is under way is not asked for again; what is told beside it is heard.
        dir.parts = Parts::Some;
        assert_eq!(dirs.add(b"a/b", &entry(0o711), Here::Existing, true, true), None);
        assert_eq!(dirs.add(b"a/b", &entry(0o711), Here::Existing, true, false), first);
        assert_eq!((dirs.list[0].mode, dirs.list[0].parts), (0o711, Parts::Some));
        dirs.retract(b"a");
        assert!(!dirs.is_retracted(b"a/b"), "what was never listed cannot be taken back");
        dirs.add(b"a", &ENTRY, Here::Existing, false, false);
        dirs.retract(b"a");
        assert!(dirs.is_retracted(b"a") && dirs.is_retracted(b"a/b") && !dirs.is_retracted(b"ab"));
        dirs.add(b"a", &ENTRY, Here::New, false, false);
        assert!(!dirs.is_retracted(b"a/b"));
    }
}
