//! File-list chunks: packed columns, made by the sender and checked by the receiver.
//!
//! Layout: docs/protocol.md, LIST. Nothing here touches a file.

mod build;
mod links;
mod remembered;

pub use build::Builder;
pub use links::Link;
pub use remembered::Stamp;

/// Entry type: a directory.
pub const DIRECTORY: u8 = 0;
/// Entry type: a regular file.
pub const REGULAR: u8 = 1;
/// Entry type: a symbolic link.
pub const SYMLINK: u8 = 2;
/// Entry type: a fifo, socket or device; skipped, but listed.
pub const OTHER: u8 = 3;
/// Entry type: what could not be looked at; skipped, but listed.
pub const UNREADABLE: u8 = 4;
/// Entry type: what does not exist; only in a PARTIAL group.
pub const GONE: u8 = 5;

/// Chunk flag: the source is one file.
pub const SINGLE: u16 = 1;
/// Chunk flag: numeric owners are there.
pub const OWNERS: u16 = 2;
/// Chunk flag: content hashes are there.
pub const HASHES: u16 = 4;
/// Chunk flag: some entries are names of one file.
pub const LINKS: u16 = 8;
/// Chunk flag: of some entries the sender remembers an earlier content.
pub const REMEMBERED: u16 = 16;
/// Chunk flag: some files and directories say what path they had.
pub const ORIGINS: u16 = 32;
/// Chunk flag: the content of every regular file of the chunk comes without being asked for.
pub const AHEAD: u16 = 64;

/// Group flag: the first part of a directory.
pub const FIRST: u8 = 1;
/// Group flag: the last part of a directory.
pub const LAST: u8 = 2;
/// Group flag: the directory could not be read whole.
pub const INCOMPLETE: u8 = 4;
/// Group flag: the group tells of its entries, not of what else the directory holds.
pub const PARTIAL: u8 = 8;

const LAYOUT: u16 = 1;
const HEADER: usize = 24;
const GROUP: usize = 12;
/// A component of a name, in bytes.
pub const COMPONENT_MAX: usize = 255;
/// A path relative to the root, in bytes.
pub const PATH_MAX: usize = 65535;

/// One entry, by value but for its name, target and hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// DIRECTORY, REGULAR, SYMLINK, OTHER, UNREADABLE or GONE.
    pub kind: u8,
    /// Permission bits.
    pub mode: u16,
    /// Bytes, of a regular file; 1 of a directory in a PARTIAL group whose own complete listing follows.
    pub size: u64,
    /// Modification time, seconds.
    pub mtime_s: i64,
    /// Modification time, nanoseconds.
    pub mtime_ns: u32,
    /// Owner and group, 0 without OWNERS.
    pub uid: u32,
    /// See `uid`.
    pub gid: u32,
    /// One component; empty for the root.
    pub name: &'a [u8],
    /// A symbolic link's target; of a file or directory, with ORIGINS, the path that it was moved from, or empty.
    pub target: &'a [u8],
    /// BLAKE3 of a regular file's content, with HASHES; zero when it could not be read.
    pub hash: [u8; 32],
}

impl Entry<'_> {
    /// What stands for the content of a regular file.
    pub fn stamp(&self) -> Stamp {
        Stamp {
            size: self.size,
            mtime_s: self.mtime_s,
            mtime_ns: self.mtime_ns,
        }
    }
}

/// A directory, or a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Index of its first entry in the chunk.
    pub start: u32,
    /// How many are its.
    pub entries: u32,
    path: (u32, u16),
    /// FIRST, LAST, INCOMPLETE, PARTIAL.
    pub flags: u8,
    /// Why it is INCOMPLETE.
    pub errno: i32,
}

/// A chunk whose every field was checked: what it returns needs no further look.
pub struct Chunk {
    data: Vec<u8>,
    flags: u16,
    entries: usize,
    groups: Vec<Group>,
    columns: Columns,
    /// Offsets into `names` and `targets`, one more than entries.
    name_ends: Vec<u32>,
    target_ends: Vec<u32>,
    remembered: Vec<remembered::Row>,
    links: Vec<Link>,
}

#[derive(Default)]
struct Columns {
    kinds: usize,
    modes: usize,
    sizes: usize,
    seconds: usize,
    nanos: usize,
    uids: usize,
    gids: usize,
    hashes: usize,
    paths: usize,
    names: usize,
    targets: usize,
}

impl Chunk {
    /// Checks everything that one chunk can show by itself: sizes, ranges, names, group order.
    pub fn parse_untrusted(data: Vec<u8>) -> Result<Self, &'static str> {
        if data.len() < HEADER {
            return Err("a file-list chunk is shorter than its header");
        }
        if u16_at(&data, 0) != LAYOUT {
            return Err("a file-list chunk of an unknown layout");
        }
        let flags = u16_at(&data, 2);
        if flags & !(SINGLE | OWNERS | HASHES | LINKS | REMEMBERED | ORIGINS | AHEAD) != 0 {
            return Err("a file-list chunk with unknown flags");
        }
        let [group_count, entries, paths_len, names_len, targets_len] =
            std::array::from_fn(|i| u32_at(&data, 4 + 4 * i) as usize);
        let mut columns = Columns::default();
        let mut at = HEADER as u64;
        // Lengths are at most 2^32 times a small width: u64 cannot overflow, and the sum is compared before any use.
        let mut place = |len: u64| {
            let here = at;
            at += len;
            here as usize
        };
        let n = entries as u64;
        place(group_count as u64 * GROUP as u64);
        columns.kinds = place(n);
        columns.modes = place(2 * n);
        columns.sizes = place(8 * n);
        columns.seconds = place(8 * n);
        columns.nanos = place(4 * n);
        let name_lens = place(2 * n);
        let target_lens = place(2 * n);
        let owners = if flags & OWNERS != 0 { 4 * n } else { 0 };
        columns.uids = place(owners);
        columns.gids = place(owners);
        columns.hashes = place(if flags & HASHES != 0 { 32 * n } else { 0 });
        columns.paths = place(paths_len as u64);
        columns.names = place(names_len as u64);
        columns.targets = place(targets_len as u64);
        let tails = flags & (LINKS | REMEMBERED) != 0;
        if at != data.len() as u64 && (!tails || at > data.len() as u64) {
            return Err("a file-list chunk whose columns do not fill it");
        }
        let kinds = &data[columns.kinds..columns.kinds + entries];
        let (mut remembered, mut rest) = (Vec::new(), &data[at as usize..]);
        if flags & REMEMBERED != 0 {
            (remembered, rest) = remembered::parse_untrusted(rest, kinds)?;
        }
        let mut links = Vec::new();
        if flags & LINKS != 0 {
            links = links::parse_untrusted(rest, kinds)?;
        } else if !rest.is_empty() {
            return Err("a file-list chunk whose columns do not fill it");
        }
        let mut chunk = Self {
            groups: parse_groups(&data, group_count, entries, paths_len)?,
            name_ends: ends(&data[name_lens..name_lens + 2 * entries], names_len)?,
            target_ends: ends(&data[target_lens..target_lens + 2 * entries], targets_len)?,
            remembered,
            links,
            data,
            flags,
            entries,
            columns,
        };
        chunk.check()?;
        chunk.data.shrink_to_fit();
        Ok(chunk)
    }

    fn check(&self) -> Result<(), &'static str> {
        for group in &self.groups {
            let path = self.path(group);
            let partial = group.flags & PARTIAL != 0;
            if self.is_ahead() && (!partial || !self.links.is_empty()) {
                return Err("content that comes unasked of more than single names");
            }
            if !path.is_empty() && !path.split(|&b| b == b'/').all(is_component) {
                return Err("a directory path that is not relative and plain");
            }
            for i in group.start..group.start + group.entries {
                let entry = self.entry(i);
                let root = entry.name.is_empty() && path.is_empty() && i == 0;
                if !root && !is_component(entry.name) {
                    return Err("a name that is not one plain component");
                }
                if path.len() + 1 + entry.name.len() > PATH_MAX {
                    return Err("a path that is too long");
                }
                if entry.kind > GONE || entry.mode > 0o7777 || entry.mtime_ns >= 1_000_000_000 {
                    return Err("an entry with a type, mode or time out of range");
                }
                if !self.has_proper_target(&entry) {
                    return Err("a symlink without a proper target, or an origin that is none");
                }
                let size_max = match entry.kind {
                    REGULAR => i64::MAX as u64,
                    DIRECTORY if partial => 1,
                    _ => 0,
                };
                if entry.size > size_max {
                    return Err("an entry with a size out of range");
                }
                let known = (entry.mode, entry.mtime_s, entry.mtime_ns) != (0, 0, 0);
                if entry.kind == GONE && (!partial || known || root) {
                    return Err("an entry that is gone where none can be, or with properties");
                }
            }
        }
        Ok(())
    }

    fn has_proper_target(&self, entry: &Entry<'_>) -> bool {
        let target = entry.target;
        match entry.kind {
            SYMLINK => !target.is_empty() && !target.contains(&0),
            REGULAR | DIRECTORY if self.flags & ORIGINS != 0 && !entry.name.is_empty() => {
                target.is_empty() || target.split(|&b| b == b'/').all(is_component)
            }
            _ => target.is_empty(),
        }
    }

    /// Chunk flags.
    pub fn flags(&self) -> u16 {
        self.flags
    }

    /// Whether the content of every regular file in it comes without being asked for.
    pub fn is_ahead(&self) -> bool {
        self.flags & AHEAD != 0
    }

    /// How many entries there are.
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// Payload bytes.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// The payload as it came.
    pub fn bytes(&self) -> &[u8] {
        &self.data
    }

    /// The groups, in order.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// A group's path relative to the root.
    pub fn path(&self, group: &Group) -> &[u8] {
        let start = self.columns.paths + group.path.0 as usize;
        &self.data[start..start + group.path.1 as usize]
    }

    /// The group that entry `i` belongs to. `i` must be below `entries()`.
    pub fn group_of(&self, i: u32) -> &Group {
        let at = self.groups.partition_point(|g| g.start + g.entries <= i);
        &self.groups[at]
    }

    /// The entries that are names of one file with others, in order.
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// The group of names that entry `i` is of.
    pub fn link_of(&self, i: u32) -> Option<u32> {
        let at = self.links.binary_search_by_key(&i, |link| link.0).ok()?;
        Some(self.links[at].1)
    }

    /// The size and time of what the sender remembers of entry `i`.
    pub fn remembered_of(&self, i: u32) -> Option<Stamp> {
        let at = self.remembered.binary_search_by_key(&i, |row| row.0).ok()?;
        Some(self.remembered[at].1)
    }

    /// Entry `i`. Panics when it is out of range: callers check peers' indexes with `entries()` first.
    pub fn entry(&self, i: u32) -> Entry<'_> {
        let i = i as usize;
        let c = &self.columns;
        let owners = self.flags & OWNERS != 0;
        let slice = |base: usize, ends: &[u32]| {
            let (from, to) = (ends[i] as usize, ends[i + 1] as usize);
            &self.data[base + from..base + to]
        };
        Entry {
            kind: self.data[c.kinds + i],
            mode: u16_at(&self.data, c.modes + 2 * i),
            size: u64_at(&self.data, c.sizes + 8 * i),
            mtime_s: u64_at(&self.data, c.seconds + 8 * i).cast_signed(),
            mtime_ns: u32_at(&self.data, c.nanos + 4 * i),
            uid: if owners { u32_at(&self.data, c.uids + 4 * i) } else { 0 },
            gid: if owners { u32_at(&self.data, c.gids + 4 * i) } else { 0 },
            name: slice(c.names, &self.name_ends),
            target: slice(c.targets, &self.target_ends),
            hash: if self.flags & HASHES != 0 {
                array(&self.data[c.hashes + 32 * i..])
            } else {
                [0; 32]
            },
        }
    }
}

fn parse_groups(data: &[u8], count: usize, entries: usize, paths_len: usize) -> Result<Vec<Group>, &'static str> {
    let mut groups = Vec::with_capacity(count);
    let (mut start, mut path) = (0u64, 0u64);
    for i in 0..count {
        let at = HEADER + GROUP * i;
        let group = Group {
            start: start as u32,
            entries: u32_at(data, at),
            path: (path as u32, u16_at(data, at + 4)),
            flags: data[at + 6],
            errno: u32_at(data, at + 8).cast_signed(),
        };
        start += u64::from(group.entries);
        path += u64::from(group.path.1);
        if start > entries as u64 || path > paths_len as u64 {
            return Err("file-list groups that name more than there is");
        }
        if group.flags & !(FIRST | LAST | INCOMPLETE | PARTIAL) != 0 || data[at + 7] != 0 {
            return Err("a file-list group with unknown flags");
        }
        if group.flags & PARTIAL != 0 && (group.flags != FIRST | LAST | PARTIAL || group.errno != 0) {
            return Err("a partial file-list group that is a part of a listing");
        }
        groups.push(group);
    }
    if start != entries as u64 || path != paths_len as u64 {
        return Err("file-list groups that do not cover the chunk");
    }
    Ok(groups)
}

fn ends(lens: &[u8], total: usize) -> Result<Vec<u32>, &'static str> {
    let mut ends = Vec::with_capacity(lens.len() / 2 + 1);
    let mut sum = 0u64;
    ends.push(0);
    for pair in lens.chunks_exact(2) {
        sum += u64::from(u16::from_le_bytes([pair[0], pair[1]]));
        ends.push(sum.min(u64::from(u32::MAX)) as u32);
    }
    if sum == total as u64 {
        Ok(ends)
    } else {
        Err("file-list names that do not fill their column")
    }
}

/// One component of a plain relative path.
pub fn is_component(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= COMPONENT_MAX
        && name != b"."
        && name != b".."
        && !name.iter().any(|&b| b == 0 || b == b'/')
}

/// The first N bytes of `bytes`, which holds at least as many.
pub fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    std::array::from_fn(|i| bytes[i])
}

/// A little-endian u16 at `at`, which the caller has bounded.
pub fn u16_at(data: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(&data[at..]))
}

/// A little-endian u32 at `at`, which the caller has bounded.
pub fn u32_at(data: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(&data[at..]))
}

/// A little-endian u64 at `at`, which the caller has bounded.
pub fn u64_at(data: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(&data[at..]))
}

#[cfg(test)]
mod tests;
