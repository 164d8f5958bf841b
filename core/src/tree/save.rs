//! An index as bytes, with its baselines: so they are never of different times.
//!
//! Directories follow each other level by level, so that a directory's number is told by where it is named. What can be
//! reckoned from the entries (subtree ticks, counts, sets) is not saved. Little-endian; BLAKE3 of all before it at the end.

use std::fmt;
use std::io::{self, Write};

use super::dir::{Dir, DirId, Hashed, LINKED, Record, UNVERIFIED, WAS_DIR};
use super::index::Index;
use crate::list::{self, DIRECTORY, GONE, PATH_MAX};

const MAGIC: &[u8; 8] = b"syncctlI";
/// Grows with each change of what follows; an index of another layout is made anew.
const LAYOUT: u32 = 1;
const TRAILER: usize = 32;
/// What is gathered before it is hashed and written.
const PIECE: usize = 1 << 18;

const READ: u8 = 1;
const WHOLE: u8 = 2;

/// Why a saved index cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// Not what was written: cut short, or changed.
    Damaged,
    /// Of another version of this program.
    Layout(u32),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged => f.write_str("the saved index is damaged"),
            Self::Layout(n) => write!(f, "the saved index has layout {n}, this version writes {LAYOUT}"),
        }
    }
}

impl std::error::Error for LoadError {}

impl Index {
    /// Writes all. `identity`: what the index is of (the root, the filters), for the caller to compare at load.
    pub fn save(&self, out: impl Write, identity: &[u8]) -> io::Result<()> {
        let mut out = Out {
            out,
            sum: blake3::Hasher::new(),
            bytes: Vec::with_capacity(PIECE + 1024),
        };
        out.put(MAGIC);
        out.u32(LAYOUT);
        out.u32(identity.len() as u32);
        out.put(identity);
        out.u64(self.tick);
        out.record(&self.root);
        let baselines: Vec<_> = self.baselines.iter().collect();
        out.u32(baselines.len() as u32);
        for (key, id, tick) in baselines {
            out.put(&key);
            out.put(&id);
            out.u64(tick);
        }
        out.u32(self.distrusted.len() as u32);
        for (path, &deep) in &self.distrusted {
            out.u32(path.len() as u32);
            out.put(&[u8::from(deep)]);
            out.put(path);
        }
        let mut level = vec![Self::ROOT];
        while !level.is_empty() {
            let mut below = Vec::new();
            for dir in level.iter().filter_map(|&id| self.dir(id)) {
                out.dir(dir)?;
                below.extend(dir.records.iter().filter_map(Record::child));
            }
            level = below;
        }
        out.spill()?;
        let sum = out.sum.finalize();
        out.out.write_all(sum.as_bytes())
    }

    /// What `save` wrote, and its identity. Any bytes are safe: what is not whole or not in order is damage.
    pub fn load(data: &[u8]) -> Result<(Self, &[u8]), LoadError> {
        let (body, sum) = data
            .split_at_checked(data.len().wrapping_sub(TRAILER))
            .ok_or(LoadError::Damaged)?;
        let mut body = In(body.strip_prefix(MAGIC).ok_or(LoadError::Damaged)?);
        let layout = body.u32()?;
        if layout != LAYOUT {
            return Err(LoadError::Layout(layout));
        }
        if blake3::hash(&data[..data.len() - TRAILER])
            != *<&[u8; TRAILER]>::try_from(sum).map_err(|_| LoadError::Damaged)?
        {
            return Err(LoadError::Damaged);
        }
        let identity_len = body.u32()? as usize;
        let identity = body.take(identity_len)?;
        let mut index = Self::new();
        index.tick = body.u64()?;
        index.root = body.record(index.tick)?.0;
        sound(index.root.kind() == DIRECTORY)?;
        for _ in 0..body.u32()? {
            let (key, id, tick) = (body.array()?, body.array()?, body.u64()?);
            sound(tick <= index.tick)?;
            index.baselines.commit(key, id, tick);
        }
        for _ in 0..body.u32()? {
            let len = body.u32()? as usize;
            let deep = body.array::<1>()?[0] != 0;
            let path = body.take(len)?;
            sound(path.is_empty() || path.split(|&b| b == b'/').all(list::is_component))?;
            index.distrusted.insert(path.to_vec(), deep);
        }
        index.load_dirs(&mut body)?;
        sound(body.0.is_empty())?;
        if index.root.has(UNVERIFIED) {
            index.unverified.insert(Self::ROOT);
        }
        Ok((index, identity))
    }

    fn load_dirs(&mut self, body: &mut In<'_>) -> Result<(), LoadError> {
        self.dirs.clear();
        // Directories that were named, in the order in which they come: parent, name, length of the path with a slash.
        let mut named: Vec<(DirId, Box<[u8]>, usize)> = vec![(Self::ROOT, Box::default(), 0)];
        while let Some((parent, name, base)) = named.get_mut(self.dirs.len()) {
            let (parent, base) = (*parent, *base);
            let mut dir = Dir::new(parent, &std::mem::take(name), body.u64()?);
            sound(dir.deep <= self.tick)?;
            let flags = body.array::<1>()?[0];
            sound(flags & !(READ | WHOLE) == 0)?;
            (dir.read, dir.whole) = (flags & READ != 0, flags & WHOLE != 0);
            let id = self.dirs.len() as DirId;
            let (records, names, hashes) = (body.u32()? as usize, body.u32()? as usize, body.u32()?);
            let mut table = In(body.take(records.checked_mul(RECORD).ok_or(LoadError::Damaged)?)?);
            let mut heap = In(body.take(names)?);
            dir.reserve(records, names);
            while !table.0.is_empty() {
                let (mut record, name_len) = table.record(self.tick)?;
                let name = heap.take(name_len)?;
                sound(list::is_component(name) && base + name.len() <= PATH_MAX)?;
                sound(dir.records.last().is_none_or(|last| dir.name_of(last) < name))?;
                if record.kind() == DIRECTORY {
                    record.size = u64::from(u32::try_from(named.len()).map_err(|_| LoadError::Damaged)?);
                    named.push((id, name.into(), base + name.len() + 1));
                }
                dir.newest = dir.newest.max(record.tick);
                dir.tombstones += u32::from(record.is_tombstone());
                self.entries += usize::from(!record.is_gone());
                if record.has(LINKED) {
                    self.linked.insert((id, name.into()));
                }
                if record.has(UNVERIFIED) {
                    self.unverified.insert(id);
                }
                sound(dir.append(name, record))?;
            }
            sound(heap.0.is_empty())?;
            for _ in 0..hashes {
                let (ino, hashed) = body.hashed()?;
                dir.hashes.insert(ino, hashed);
            }
            if !dir.read && id != Self::ROOT {
                self.unverified.insert(id);
            }
            self.dirs.push(Some(dir));
        }
        let root = self.root.tick;
        for at in (1..self.dirs.len()).rev() {
            let from = self.dirs[at].as_ref().map(|d| (d.parent, d.newest));
            if let Some((parent, newest)) = from
                && let Some(parent) = self.dir_mut(parent)
            {
                parent.newest = parent.newest.max(newest);
            }
        }
        if let Some(dir) = self.dir_mut(Self::ROOT) {
            dir.newest = dir.newest.max(root);
        }
        Ok(())
    }
}

/// Bytes of a saved record: as in memory, but for where its name is.
const RECORD: usize = 60;

struct Out<W> {
    out: W,
    sum: blake3::Hasher,
    bytes: Vec<u8>,
}

impl<W: Write> Out<W> {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn u32(&mut self, n: u32) {
        self.put(&n.to_le_bytes());
    }

    fn u64(&mut self, n: u64) {
        self.put(&n.to_le_bytes());
    }

    fn spill(&mut self) -> io::Result<()> {
        self.sum.update(&self.bytes);
        self.out.write_all(&self.bytes)?;
        self.bytes.clear();
        Ok(())
    }

    fn record(&mut self, record: &Record) {
        let size = if record.kind() == DIRECTORY { 0 } else { record.size };
        for n in [
            size,
            record.ino,
            record.mtime_s as u64,
            record.ctime_s as u64,
            record.tick,
        ] {
            self.u64(n);
        }
        for n in [record.mtime_ns, record.ctime_ns, record.uid, record.gid] {
            self.u32(n);
        }
        self.put(&record.mode.to_le_bytes());
        self.put(&[record.name_len() as u8, record.tag()]);
    }

    fn dir(&mut self, dir: &Dir) -> io::Result<()> {
        self.u64(dir.deep);
        self.put(&[if dir.read { READ } else { 0 } | if dir.whole { WHOLE } else { 0 }]);
        let names: usize = dir.records.iter().map(Record::name_len).sum();
        for n in [dir.records.len(), names, dir.hashes.len()] {
            self.u32(n as u32);
        }
        for record in &dir.records {
            self.record(record);
            if self.bytes.len() >= PIECE {
                self.spill()?;
            }
        }
        for record in &dir.records {
            self.put(dir.name_of(record));
            if self.bytes.len() >= PIECE {
                self.spill()?;
            }
        }
        for (ino, hashed) in &dir.hashes {
            for n in [*ino, hashed.size, hashed.mtime.0 as u64, hashed.ctime.0 as u64] {
                self.u64(n);
            }
            self.u32(hashed.mtime.1);
            self.u32(hashed.ctime.1);
            self.put(&hashed.hash);
            if self.bytes.len() >= PIECE {
                self.spill()?;
            }
        }
        Ok(())
    }
}

/// What is left to read.
struct In<'a>(&'a [u8]);

impl<'a> In<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], LoadError> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(LoadError::Damaged)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], LoadError> {
        self.take(N)?.try_into().map_err(|_| LoadError::Damaged)
    }

    fn u32(&mut self) -> Result<u32, LoadError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, LoadError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A record without its name, and how long that is.
    fn record(&mut self, tick: u64) -> Result<(Record, usize), LoadError> {
        let mut record = Record::blank();
        record.size = self.u64()?;
        record.ino = self.u64()?;
        record.mtime_s = self.u64()? as i64;
        record.ctime_s = self.u64()? as i64;
        record.tick = self.u64()?;
        record.mtime_ns = self.u32()?;
        record.ctime_ns = self.u32()?;
        record.uid = self.u32()?;
        record.gid = self.u32()?;
        record.mode = u16::from_le_bytes(self.array()?);
        let [name_len, tag] = self.array()?;
        record.set_tag(tag);
        sound(record.tick <= tick && record.mode <= 0o7777)?;
        sound(record.mtime_ns < 1_000_000_000 && record.ctime_ns < 1_000_000_000)?;
        sound(record.kind() <= GONE && tag >> 4 <= UNVERIFIED | LINKED | WAS_DIR)?;
        sound(!(record.has(LINKED) && matches!(record.kind(), DIRECTORY | GONE)))?;
        Ok((record, usize::from(name_len)))
    }

    fn hashed(&mut self) -> Result<(u64, Hashed), LoadError> {
        let ino = self.u64()?;
        let size = self.u64()?;
        let (mtime, ctime) = (self.u64()? as i64, self.u64()? as i64);
        let hashed = Hashed {
            size,
            mtime: (mtime, self.u32()?),
            ctime: (ctime, self.u32()?),
            hash: self.array()?,
        };
        Ok((ino, hashed))
    }
}

fn sound(whole: bool) -> Result<(), LoadError> {
    whole.then_some(()).ok_or(LoadError::Damaged)
}
