//! The index of a tree: what every entry was when it was last looked at, and when it last changed.
//!
//! *When* is by the index's own clock, the tick: it grows by one with each change that is found or expected, and an
//! entry keeps the tick of its last one. So "what changed since t" needs no second index, and each directory knows the
//! largest tick below it, so that the answer visits only what changed.
//!
//! Pure data: it is told what was seen. Every call with a `DirId` of a directory that vanished does nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::baselines::Baselines;
use super::dir::{Dir, Hashed, LINKED, Record, UNVERIFIED, WAS_DIR};
pub use super::dir::{DirId, Expected, Stat};
use crate::list::DIRECTORY;

/// Tombstones kept per directory; with more, the directory is one deep look.
pub const TOMBSTONES_MAX: u32 = 1000;

/// All entries of one root, and the baselines.
#[derive(Debug)]
pub struct Index {
    pub(super) dirs: Vec<Option<Dir>>,
    /// Places to use again; and those that are not yet, because a caller may still hold their ids.
    free: Vec<DirId>,
    limbo: Vec<DirId>,
    /// The root directory's own entry.
    pub(super) root: Record,
    pub(super) tick: u64,
    pub(super) entries: usize,
    pub(super) unverified: BTreeSet<DirId>,
    pub(super) linked: BTreeSet<(DirId, Box<[u8]>)>,
    /// Paths that are among the changes until they are expected anew; true: with all below.
    pub(super) distrusted: BTreeMap<Vec<u8>, bool>,
    pub(super) baselines: Baselines,
}

/// What one look showed.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    /// As it was known or expected; or as absent as before.
    Same,
    /// An entry is new or different; a directory is still the same directory.
    Changed,
    /// A directory is there of which nothing is known: its names are to be read.
    NewDir(DirId),
    /// The entry went, and these directories with it.
    Gone(Vec<DirId>),
    /// Something else took the place of a directory: these went with it; `new` when the other is a directory too,
    /// whose names are to be read.
    Replaced {
        /// Directories that went.
        gone: Vec<DirId>,
        /// A directory to be read.
        new: Option<DirId>,
    },
}

/// What reading a whole directory showed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Entries that are new, different or gone.
    pub changed: usize,
    /// Directories of which nothing is known: their names are to be read.
    pub new: Vec<DirId>,
    /// Directories that went.
    pub gone: Vec<DirId>,
}

impl Listed {
    fn add(&mut self, seen: Seen) {
        self.changed += usize::from(seen != Seen::Same);
        match seen {
            Seen::Same | Seen::Changed => {}
            Seen::NewDir(id) => self.new.push(id),
            Seen::Gone(ids) => self.gone.extend(ids),
            Seen::Replaced { gone, new } => {
                self.gone.extend(gone);
                self.new.extend(new);
            }
        }
    }
}

impl Default for Index {
    fn default() -> Self {
        Self::new()
    }
}

impl Index {
    /// The root directory; it never vanishes.
    pub const ROOT: DirId = 0;

    /// Nothing is known: the only change since 0 is the root, deep.
    pub fn new() -> Self {
        let mut root = Record::blank();
        root.await_(&Expected {
            kind: DIRECTORY,
            mode: 0,
            size: 0,
            mtime: (0, 0),
        });
        root.tick = 1;
        Self {
            dirs: vec![Some(Dir::new(Self::ROOT, b"", 1))],
            free: Vec::new(),
            limbo: Vec::new(),
            root,
            tick: 1,
            entries: 0,
            unverified: BTreeSet::new(),
            linked: BTreeSet::new(),
            distrusted: BTreeMap::new(),
            baselines: Baselines::default(),
        }
    }

    /// The clock: at least the tick of every change so far.
    pub fn tick(&self) -> u64 {
        self.tick
    }

    /// Entries below the root, directories among them.
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// Directories, the root among them.
    pub fn dirs(&self) -> usize {
        self.dirs.len() - self.free.len() - self.limbo.len()
    }

    /// Heap bytes, estimated; visits every directory.
    pub fn bytes(&self) -> usize {
        let sets = (self.linked.len() + self.distrusted.len()) * 96 + self.unverified.len() * 8;
        self.dirs.capacity() * size_of::<Option<Dir>>()
            + self.dirs.iter().flatten().map(Dir::bytes).sum::<usize>()
            + sets
    }

    /// The directory at a path; "" is the root.
    pub fn find(&self, path: &[u8]) -> Option<DirId> {
        let mut at = Self::ROOT;
        if !path.is_empty() {
            for name in path.split(|&b| b == b'/') {
                at = self.dir(at)?.get(name)?.child()?;
            }
        }
        Some(at)
    }

    /// The path of a directory relative to the root; None: it vanished.
    pub fn path(&self, dir: DirId) -> Option<Vec<u8>> {
        let mut names = Vec::new();
        let mut at = dir;
        self.dir(dir)?;
        while at != Self::ROOT {
            let known = self.dir(at)?;
            names.push(&known.name[..]);
            at = known.parent;
        }
        names.reverse();
        Some(names.join(&b'/'))
    }

    /// Whether the directory's names were ever read; until then only what was expected or looked at is known.
    pub fn is_read(&self, dir: DirId) -> bool {
        self.dir(dir).is_some_and(|d| d.read)
    }

    /// What a name is known or (with inode 0) expected to be.
    pub fn get(&self, dir: DirId, name: &[u8]) -> Option<Stat> {
        self.dir(dir)?.get(name)?.stat()
    }

    /// Every name of a directory that is known or expected to be there, sorted.
    pub fn names(&self, dir: DirId) -> impl Iterator<Item = (&[u8], Stat)> + '_ {
        let all = self.dir(dir).into_iter();
        all.flat_map(|d| d.records.iter().filter_map(|r| Some((d.name_of(r), r.stat()?))))
    }

    /// A fresh look at the root directory itself.
    pub fn root_stat(&mut self, stat: Stat, granule: u32) {
        let first = self.root.tick == 1 && self.root.ino == 0;
        let known = if self.root.has(UNVERIFIED) {
            self.root.meets_stat(&stat, granule)
        } else {
            self.root.same(&stat)
        };
        self.root.adopt(&stat);
        if !known && !first {
            self.root.tick = self.bump();
            self.touch(Self::ROOT, self.tick);
        }
    }

    /// A fresh look at one name; None: it is not there.
    pub fn look(&mut self, dir: DirId, name: &[u8], now: Option<Stat>, granule: u32) -> Seen {
        let Some(at) = self.place(dir, name, now.is_some()) else {
            return Seen::Same;
        };
        let seen = self.settle(dir, at, now.as_ref(), granule, None);
        self.tidy(dir);
        seen
    }

    /// A whole directory was read: names that are not among the entries are gone. Sorts and drains `entries`.
    ///
    /// What is found by the first reading of a directory is as old as the directory is: it is part of its being new.
    pub fn listed(&mut self, dir: DirId, entries: &mut Vec<(Box<[u8]>, Stat)>, granule: u32) -> Listed {
        let mut all = Listed::default();
        let entries = std::mem::take(entries);
        let entries = sorted(entries);
        let Some(known) = self.dir_mut(dir) else {
            return all;
        };
        let first = (!known.read && !known.whole).then_some(known.deep);
        let fits = known.insert_all(entries.iter().map(|e| &e.0[..]));
        known.read = true;
        let mut found = entries.iter().peekable();
        for at in 0.. {
            let Some(known) = self.dir(dir).filter(|d| at < d.records.len()) else {
                break;
            };
            let name = known.name_of(&known.records[at]);
            while found.next_if(|e| &*e.0 < name).is_some() {}
            let now = found.next_if(|e| &*e.0 == name).map(|e| &e.1);
            let seen = self.settle(dir, at, now, granule, first);
            all.add(seen);
        }
        self.tidy(dir);
        if !fits {
            self.overflowed(dir);
        }
        all
    }

    /// Lets the places of vanished directories be used again: for when no id from before this call is still held.
    pub fn recycle(&mut self) {
        self.free.append(&mut self.limbo);
    }

    /// Entries that have other names: no watch tells of changes through those.
    pub fn linked(&self) -> Vec<(DirId, Box<[u8]>)> {
        self.linked.iter().cloned().collect()
    }

    /// The content hash of a file, if it was remembered for just this state of it.
    pub fn hash(&self, dir: &[u8], _name: &[u8], stat: &Stat) -> Option<[u8; 32]> {
        let hashed = self.dir(self.find(dir)?)?.hashes.get(&stat.ino)?;
        let same = (hashed.size, hashed.mtime, hashed.ctime) == (stat.size, stat.mtime, stat.ctime);
        same.then_some(hashed.hash)
    }

    /// Remembers a content hash for this state of a file. The caller sees to it that the change time is older than the
    /// file system's now by a granule: a younger one may stand for two states.
    pub fn set_hash(&mut self, dir: &[u8], _name: &[u8], stat: &Stat, hash: [u8; 32]) {
        let Some(known) = self.find(dir).and_then(|id| self.dir_mut(id)) else {
            return;
        };
        let hashed = Hashed {
            size: stat.size,
            mtime: stat.mtime,
            ctime: stat.ctime,
            hash,
        };
        known.hashes.insert(stat.ino, hashed);
        // What was replaced leaves its inode behind: swept when it could be the half.
        if known.hashes.len() > 2 * known.records.len() + 16 {
            let inodes: BTreeSet<u64> = known.records.iter().map(|r| r.ino).chain([stat.ino]).collect();
            known.hashes.retain(|ino, _| inodes.contains(ino));
        }
    }

    /// A session with the peer of `key` is done: everything up to `tick` is agreed with it, under the name `id`.
    pub fn commit(&mut self, key: [u8; 16], id: [u8; 16], tick: u64) {
        self.baselines.commit(key, id, tick);
        let floor = self.baselines.oldest().unwrap_or(0);
        for dir in self.dirs.iter_mut().flatten().filter(|d| d.tombstones > 0) {
            let old = |r: &Record| r.is_tombstone() && r.tick <= floor;
            let count = dir.records.iter().filter(|r| old(r)).count();
            // A table is rewritten to drop some: not for a few of many.
            if count * 16 >= dir.records.len().max(1) {
                dir.retain(|r| !old(r));
                dir.tombstones -= count as u32;
            }
        }
    }

    /// (id, tick) of a key, newest first; two at most.
    pub fn baselines(&self, key: &[u8; 16]) -> Vec<([u8; 16], u64)> {
        self.baselines.of(key)
    }

    /// Forgets every baseline: what is known is not what was agreed.
    pub fn drop_baselines(&mut self) {
        self.baselines.clear();
    }

    pub(super) fn dir(&self, id: DirId) -> Option<&Dir> {
        self.dirs.get(id as usize)?.as_ref()
    }

    pub(super) fn dir_mut(&mut self, id: DirId) -> Option<&mut Dir> {
        self.dirs.get_mut(id as usize)?.as_mut()
    }

    pub(super) fn bump(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }

    /// Something in `dir` changed at `tick`, the newest there is.
    pub(super) fn touch(&mut self, dir: DirId, tick: u64) {
        let mut at = dir;
        while let Some(known) = self.dir_mut(at).filter(|d| d.newest < tick) {
            known.newest = tick;
            at = known.parent;
        }
    }

    /// Where a name's record is; one is made for it if need be.
    pub(super) fn place(&mut self, dir: DirId, name: &[u8], make: bool) -> Option<usize> {
        let known = self.dir_mut(dir)?;
        match known.position(name) {
            Ok(at) => Some(at),
            Err(at) if make => {
                if known.insert(at, name) {
                    return Some(at);
                }
                self.overflowed(dir);
                None
            }
            Err(_) => None,
        }
    }

    /// Writes a record, and keeps all that is counted by it.
    pub(super) fn put(&mut self, dir: DirId, at: usize, new: Record) {
        let Some(known) = self.dirs.get_mut(dir as usize).and_then(Option::as_mut) else {
            return;
        };
        let old = std::mem::replace(&mut known.records[at], new);
        known.tombstones += u32::from(new.is_tombstone());
        known.tombstones -= u32::from(old.is_tombstone());
        self.entries += usize::from(!new.is_gone());
        self.entries -= usize::from(!old.is_gone());
        if new.has(UNVERIFIED) {
            self.unverified.insert(dir);
        }
        if new.has(LINKED) != old.has(LINKED) {
            let key = (dir, Box::from(known.name_of(&new)));
            if new.has(LINKED) {
                self.linked.insert(key);
            } else {
                self.linked.remove(&key);
            }
        }
    }

    pub(super) fn make_dir(&mut self, parent: DirId, at: usize, tick: u64) -> DirId {
        let dir = match self.dir(parent) {
            Some(known) => Dir::new(parent, known.name_of(&known.records[at]), tick),
            None => Dir::new(parent, b"", tick),
        };
        match self.free.pop() {
            Some(id) => {
                self.dirs[id as usize] = Some(dir);
                id
            }
            None => {
                self.dirs.push(Some(dir));
                (self.dirs.len() - 1) as DirId
            }
        }
    }

    /// A directory and all below it vanish.
    pub(super) fn drop_dir(&mut self, id: DirId) -> Vec<DirId> {
        let path = if self.distrusted.is_empty() {
            None
        } else {
            self.path(id)
        };
        if let Some(path) = path {
            self.trust(&path, true);
        }
        let mut gone = vec![id];
        let mut next = 0;
        while let Some(&id) = gone.get(next) {
            next += 1;
            let Some(dir) = self.dirs[id as usize].take() else {
                continue;
            };
            for record in &dir.records {
                self.entries -= usize::from(!record.is_gone());
                gone.extend(record.child());
                if record.has(LINKED) {
                    self.linked.remove(&(id, Box::from(dir.name_of(record))));
                }
            }
            self.unverified.remove(&id);
        }
        self.limbo.extend(&gone);
        gone
    }

    /// Too many tombstones: the directory as a whole is what changed.
    pub(super) fn tidy(&mut self, dir: DirId) {
        if let Some(known) = self.dir_mut(dir).filter(|d| d.tombstones > TOMBSTONES_MAX) {
            let dropped = known.records.iter().filter(|r| r.is_tombstone()).map(|r| r.tick);
            known.deep = known.deep.max(dropped.max().unwrap_or(0));
            known.retain(|r| !r.is_tombstone());
            known.tombstones = 0;
        }
    }

    /// More names than a directory's table has room for: what it holds is looked at each time.
    pub(super) fn overflowed(&mut self, dir: DirId) {
        if let Some(path) = self.path(dir) {
            self.distrust(&path, true);
        }
    }

    /// Brings one record up to a look at it. `first`: the tick of a name that was never heard of, if not a new one.
    fn settle(&mut self, dir: DirId, at: usize, now: Option<&Stat>, granule: u32, first: Option<u64>) -> Seen {
        let Some(old) = self.dir(dir).map(|d| d.records[at]) else {
            return Seen::Same;
        };
        let mut new = old;
        let child = old.child();
        let Some(now) = now else {
            new.flag(UNVERIFIED, false);
            if old.is_gone() {
                self.put(dir, at, new);
                return Seen::Same;
            }
            new.bury(self.bump());
            let gone = child.map(|id| self.drop_dir(id)).unwrap_or_default();
            self.put(dir, at, new);
            self.touch(dir, new.tick);
            return Seen::Gone(gone);
        };
        new.adopt(now);
        let is_dir = now.kind == DIRECTORY;
        let replaced = child.is_some() && !(is_dir && (old.ino == 0 || old.ino == now.ino));
        if child.is_some() == is_dir && !replaced && !old.is_gone() {
            let known = if old.has(UNVERIFIED) {
                old.meets_stat(now, granule)
            } else {
                old.same(now)
            };
            // Of a directory that could not be read, any sign that it may be readable now is a change.
            let unread = child.filter(|&id| self.dir(id).is_some_and(|d| !d.read && !d.whole));
            let stirred = unread.is_some() && !old.has(UNVERIFIED) && (old.ctime_s, old.ctime_ns) != now.ctime;
            if known && !stirred {
                self.put(dir, at, new);
                return Seen::Same;
            }
            new.tick = self.bump();
            self.put(dir, at, new);
            if let Some(known) = unread.filter(|_| stirred).and_then(|id| self.dir_mut(id)) {
                known.deep = new.tick;
                known.newest = new.tick;
            }
            self.touch(dir, new.tick);
            return Seen::Changed;
        }
        let stranger = old.is_gone() && old.tick == 0 && !old.has(UNVERIFIED);
        new.tick = first.filter(|_| stranger).unwrap_or_else(|| self.bump());
        let gone = child.map(|id| self.drop_dir(id)).unwrap_or_default();
        new.flag(WAS_DIR, !is_dir && (replaced || old.has(WAS_DIR)));
        let made = is_dir.then(|| self.make_dir(dir, at, new.tick));
        if let Some(id) = made {
            new.size = u64::from(id);
        }
        self.put(dir, at, new);
        self.touch(dir, new.tick);
        match made {
            _ if replaced => Seen::Replaced { gone, new: made },
            Some(id) => Seen::NewDir(id),
            None => Seen::Changed,
        }
    }
}

fn sorted(mut entries: Vec<(Box<[u8]>, Stat)>) -> Vec<(Box<[u8]>, Stat)> {
    entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    entries.dedup_by(|a, b| a.0 == b.0);
    entries
}
