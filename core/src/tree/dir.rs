//! One directory of the index: its names, sorted, and what each was when it was looked at.
//!
//! 64 bytes a name beside the name itself. A name that went stays as a *tombstone* (kind GONE), so that what looks for
//! changes finds it where it was.

use std::collections::BTreeMap;

use crate::beneath::Meta;
use crate::list::{DIRECTORY, GONE, REGULAR, SYMLINK};

/// A directory of the index; the place of one that vanished is used again after `Index::recycle`.
pub type DirId = u32;

/// What `lstat` said of an entry, as far as the index keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The entry type of `list`.
    pub kind: u8,
    /// Permission bits, 07777.
    pub mode: u16,
    /// Bytes; 0 of a directory, which has none that matter.
    pub size: u64,
    /// Modification time, seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Change time, seconds and nanoseconds; 0 while unverified.
    pub ctime: (i64, u32),
    /// Inode; 0 while unverified.
    pub ino: u64,
    /// It has other names: a watch on this one does not tell of a change through them.
    pub linked: bool,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl From<&Meta> for Stat {
    fn from(meta: &Meta) -> Self {
        let directory = meta.kind == DIRECTORY;
        Self {
            kind: meta.kind,
            mode: meta.mode,
            size: if directory { 0 } else { meta.size },
            mtime: (meta.mtime_s, meta.mtime_ns),
            ctime: meta.ctime,
            ino: meta.id.1,
            linked: meta.links > 1 && !directory,
            uid: meta.uid,
            gid: meta.gid,
        }
    }
}

/// What an entry is to become, by a session's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// DIRECTORY, REGULAR, SYMLINK or GONE; what is listed as OTHER or UNREADABLE is not expected.
    pub kind: u8,
    /// Permission bits; those of a symlink mean nothing.
    pub mode: u16,
    /// Bytes, of a regular file.
    pub size: u64,
    /// Modification time, seconds and nanoseconds.
    pub mtime: (i64, u32),
}

/// A content hash, and the state of the file that it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hashed {
    pub size: u64,
    pub mtime: (i64, u32),
    pub ctime: (i64, u32),
    pub hash: [u8; 32],
}

/// An expectation that no look confirmed yet.
pub(super) const UNVERIFIED: u8 = 1;
/// It has other names.
pub(super) const LINKED: u8 = 2;
/// It was a directory since it was last agreed: its look is with everything below it.
pub(super) const WAS_DIR: u8 = 4;

/// One name. Packed by hand: a million of them are the size of the index.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    /// Of a directory: its DirId.
    pub size: u64,
    pub ino: u64,
    pub mtime_s: i64,
    pub ctime_s: i64,
    /// When it last changed, by the index's clock.
    pub tick: u64,
    pub mtime_ns: u32,
    pub ctime_ns: u32,
    pub uid: u32,
    pub gid: u32,
    name_at: u32,
    pub mode: u16,
    name_len: u8,
    /// Entry type (4 bits), flags (4 bits).
    tag: u8,
}

const _: () = assert!(size_of::<Record>() == 64);

impl Record {
    /// A name of which nothing was ever known.
    pub fn blank() -> Self {
        Self {
            size: 0,
            ino: 0,
            mtime_s: 0,
            ctime_s: 0,
            tick: 0,
            mtime_ns: 0,
            ctime_ns: 0,
            uid: 0,
            gid: 0,
            name_at: 0,
            mode: 0,
            name_len: 0,
            tag: GONE,
        }
    }

    pub fn kind(&self) -> u8 {
        self.tag & 15
    }

    pub fn name_len(&self) -> usize {
        usize::from(self.name_len)
    }

    pub fn has(&self, flag: u8) -> bool {
        self.tag & (flag << 4) != 0
    }

    pub fn flag(&mut self, flag: u8, on: bool) {
        let bit = flag << 4;
        self.tag = if on { self.tag | bit } else { self.tag & !bit };
    }

    pub fn tag(&self) -> u8 {
        self.tag
    }

    pub fn set_tag(&mut self, tag: u8) {
        self.tag = tag;
    }

    pub fn is_gone(&self) -> bool {
        self.kind() == GONE
    }

    /// It went, and a look has shown that.
    pub fn is_tombstone(&self) -> bool {
        self.is_gone() && self.tick > 0 && !self.has(UNVERIFIED)
    }

    /// The name went. The inode stays on record with its last change time: it may be found under another name.
    pub fn bury(&mut self, tick: u64) {
        let was_dir = self.kind() == DIRECTORY || self.has(WAS_DIR);
        *self = Self {
            tick,
            ino: self.ino,
            ctime_s: self.ctime_s,
            ctime_ns: self.ctime_ns,
            name_at: self.name_at,
            name_len: self.name_len,
            ..Self::blank()
        };
        self.flag(WAS_DIR, was_dir);
    }

    pub fn child(&self) -> Option<DirId> {
        (self.kind() == DIRECTORY).then_some(self.size as DirId)
    }

    pub fn stat(&self) -> Option<Stat> {
        (!self.is_gone()).then(|| Stat {
            kind: self.kind(),
            mode: self.mode,
            size: if self.kind() == DIRECTORY { 0 } else { self.size },
            mtime: (self.mtime_s, self.mtime_ns),
            ctime: (self.ctime_s, self.ctime_ns),
            ino: self.ino,
            linked: self.has(LINKED),
            uid: self.uid,
            gid: self.gid,
        })
    }

    /// Takes a look over; the tick, and WAS_DIR, stay. A directory's `size` is the caller's to set.
    pub fn adopt(&mut self, now: &Stat) {
        self.tag = (self.tag & !15) | now.kind;
        if now.kind != DIRECTORY {
            self.size = now.size;
        }
        self.mode = now.mode;
        (self.mtime_s, self.mtime_ns) = now.mtime;
        (self.ctime_s, self.ctime_ns) = now.ctime;
        self.ino = now.ino;
        (self.uid, self.gid) = (now.uid, now.gid);
        self.flag(LINKED, now.linked);
        self.flag(UNVERIFIED, false);
    }

    /// Takes an expectation over. A directory keeps its inode: being replaced by another one is never as expected. What is
    /// to go keeps it as a tombstone does.
    pub fn await_(&mut self, to: &Expected) {
        let goes = to.kind == GONE;
        let stays = goes || to.kind == DIRECTORY && self.kind() == DIRECTORY;
        self.tag = (self.tag & !15) | to.kind;
        if to.kind != DIRECTORY {
            self.size = if to.kind == REGULAR { to.size } else { 0 };
        }
        if !stays {
            self.ino = 0;
        }
        self.mode = to.mode;
        (self.mtime_s, self.mtime_ns) = to.mtime;
        if !goes {
            (self.ctime_s, self.ctime_ns) = (0, 0);
        }
        self.flag(LINKED, false);
        self.flag(UNVERIFIED, true);
    }

    /// Whether it is what is expected, as far as a file system of this time granule (ns) can tell.
    pub fn meets(&self, to: &Expected, granule: u32) -> bool {
        self.kind() == to.kind
            && (to.kind == GONE
                || (to.kind == SYMLINK || self.mode == to.mode)
                    && (to.kind != REGULAR || self.size == to.size)
                    && same_time((self.mtime_s, self.mtime_ns), to.mtime, granule))
    }

    /// Whether a look shows what is expected while UNVERIFIED.
    pub fn meets_stat(&self, now: &Stat, granule: u32) -> bool {
        let now = Expected {
            kind: now.kind,
            mode: now.mode,
            size: now.size,
            mtime: now.mtime,
        };
        self.meets(&now, granule)
    }

    /// Whether a look at the same name shows the same file, not touched since. A directory's change time tells only
    /// of what is seen otherwise: names in it, its own move.
    pub fn same(&self, now: &Stat) -> bool {
        let directory = now.kind == DIRECTORY;
        self.kind() == now.kind
            && self.ino == now.ino
            && self.mode == now.mode
            && (self.mtime_s, self.mtime_ns) == now.mtime
            && (self.uid, self.gid) == (now.uid, now.gid)
            && (directory || (self.size == now.size && (self.ctime_s, self.ctime_ns) == now.ctime))
    }
}

/// Whether two times are the same to a file system whose times are multiples of `granule` nanoseconds.
pub fn same_time(a: (i64, u32), b: (i64, u32), granule: u32) -> bool {
    let floor =
        |(s, ns): (i64, u32)| (i128::from(s) * 1_000_000_000 + i128::from(ns)).div_euclid(i128::from(granule.max(1)));
    a == b || floor(a) == floor(b)
}

/// One directory.
#[derive(Debug, Default)]
pub(super) struct Dir {
    pub parent: DirId,
    pub name: Box<[u8]>,
    /// Sorted by name.
    pub records: Vec<Record>,
    names: Vec<u8>,
    pub hashes: BTreeMap<u64, Hashed>,
    /// The largest tick in it and below.
    pub newest: u64,
    /// To whom it was last agreed before this tick, all of it is news.
    pub deep: u64,
    pub tombstones: u32,
    /// Its names were read from disk.
    pub read: bool,
    /// A list said that it has no other names than these.
    pub whole: bool,
}

impl Dir {
    pub fn new(parent: DirId, name: &[u8], tick: u64) -> Self {
        Self {
            parent,
            name: name.into(),
            newest: tick,
            deep: tick,
            ..Self::default()
        }
    }

    pub fn name_of(&self, record: &Record) -> &[u8] {
        let at = record.name_at as usize;
        &self.names[at..at + record.name_len()]
    }

    pub fn position(&self, name: &[u8]) -> Result<usize, usize> {
        self.records.binary_search_by(|record| self.name_of(record).cmp(name))
    }

    pub fn get(&self, name: &[u8]) -> Option<&Record> {
        self.position(name).ok().map(|at| &self.records[at])
    }

    /// Appends a record under a name that sorts last; false: 4 GiB of names are too many, or the name too long.
    pub fn append(&mut self, name: &[u8], mut record: Record) -> bool {
        let (Ok(name_at), Ok(name_len)) = (u32::try_from(self.names.len()), u8::try_from(name.len())) else {
            return false;
        };
        record.name_at = name_at;
        record.name_len = name_len;
        self.names.extend_from_slice(name);
        self.records.push(record);
        true
    }

    /// A blank record for a name that `position` did not find. Grows by an eighth: doubling would waste most of it.
    pub fn insert(&mut self, at: usize, name: &[u8]) -> bool {
        if self.records.len() == self.records.capacity() {
            self.records.reserve_exact(self.records.len() / 8 + 1);
        }
        if self.names.len() + name.len() > self.names.capacity() {
            self.names.reserve_exact(self.names.len() / 8 + name.len());
        }
        let fits = self.append(name, Record::blank());
        if fits {
            self.records[at..].rotate_right(1);
        }
        fits
    }

    /// Blank records for those of the sorted names that are not there yet; false: they did not fit, and none is there.
    pub fn insert_all<'a>(&mut self, names: impl Iterator<Item = &'a [u8]> + Clone) -> bool {
        let (mut missing, mut bytes, mut at) = (0, 0, 0);
        for name in names.clone() {
            while at < self.records.len() && self.name_of(&self.records[at]) < name {
                at += 1;
            }
            if at == self.records.len() || self.name_of(&self.records[at]) != name {
                missing += 1;
                bytes += name.len();
            }
        }
        if missing == 0 {
            return true;
        }
        if u32::try_from(self.names.len() + bytes).is_err() {
            return false;
        }
        let old = self.take_table(missing, bytes);
        let mut have = old.0.iter().peekable();
        for name in names {
            while let Some(record) = have.next_if(|r| old.name_of(r) <= name) {
                self.append(old.name_of(record), *record);
            }
            let last = self.records.last().map(|r| self.name_of(r));
            if last != Some(name) {
                self.append(name, Record::blank());
            }
        }
        for record in have {
            self.append(old.name_of(record), *record);
        }
        true
    }

    /// Room for this many records and bytes of names, exactly.
    pub fn reserve(&mut self, records: usize, names: usize) {
        self.records.reserve_exact(records);
        self.names.reserve_exact(names);
    }

    /// Leaves only the records that are to stay, and gives memory back.
    pub fn retain(&mut self, keep: impl Fn(&Record) -> bool) {
        let old = self.take_table(0, 0);
        let kept = old.0.iter().filter(|r| keep(r));
        self.reserve(kept.clone().count(), kept.clone().map(Record::name_len).sum());
        for record in kept {
            self.append(old.name_of(record), *record);
        }
    }

    fn take_table(&mut self, more: usize, bytes: usize) -> Table {
        let records = Vec::with_capacity(if more == 0 { 0 } else { self.records.len() + more });
        let names = Vec::with_capacity(if more == 0 { 0 } else { self.names.len() + bytes });
        Table(
            std::mem::replace(&mut self.records, records),
            std::mem::replace(&mut self.names, names),
        )
    }

    /// Heap bytes, with what an allocator spends on each piece.
    pub fn bytes(&self) -> usize {
        const PIECE: usize = 16;
        let piece = |n: usize| if n == 0 { 0 } else { n + PIECE };
        let hashes = self.hashes.len() * 3 / 2 * size_of::<(u64, Hashed)>();
        piece(self.records.capacity() * size_of::<Record>())
            + piece(self.names.capacity())
            + piece(self.name.len())
            + hashes
    }
}

struct Table(Vec<Record>, Vec<u8>);

impl Table {
    fn name_of(&self, record: &Record) -> &[u8] {
        let at = record.name_at as usize;
        &self.1[at..at + record.name_len()]
    }
}
