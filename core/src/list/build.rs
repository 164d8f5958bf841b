//! Makes one chunk, group by group.

use super::{
    Entry, GROUP, HASHES, HEADER, LAYOUT, LINKS, ORIGINS, OWNERS, REMEMBERED, SYMLINK, Stamp, array, links, remembered,
};

/// Builds one chunk, group by group.
#[derive(Default)]
pub struct Builder {
    flags: u16,
    groups: Vec<u8>,
    group_count: u32,
    kinds: Vec<u8>,
    modes: Vec<u8>,
    sizes: Vec<u8>,
    seconds: Vec<u8>,
    nanos: Vec<u8>,
    name_lens: Vec<u8>,
    target_lens: Vec<u8>,
    uids: Vec<u8>,
    gids: Vec<u8>,
    hashes: Vec<u8>,
    paths: Vec<u8>,
    names: Vec<u8>,
    targets: Vec<u8>,
    remembered: Vec<u8>,
    links: Vec<u8>,
}

impl Builder {
    /// An empty chunk with these chunk flags.
    pub fn new(flags: u16) -> Self {
        Self {
            flags,
            ..Self::default()
        }
    }

    /// Begins a group; the entries pushed next are its.
    pub fn begin_group(&mut self, path: &[u8], flags: u8, errno: i32) {
        self.groups.extend_from_slice(&0u32.to_le_bytes());
        self.groups.extend_from_slice(&(path.len() as u16).to_le_bytes());
        self.groups.push(flags);
        self.groups.push(0);
        self.groups.extend_from_slice(&errno.to_le_bytes());
        self.group_count += 1;
        self.paths.extend_from_slice(path);
    }

    /// Sets flags on the group begun last: LAST and INCOMPLETE are known only at its end.
    pub fn amend_group(&mut self, flags: u8, errno: i32) {
        let at = self.groups.len() - GROUP;
        self.groups[at + 6] |= flags;
        if errno != 0 {
            self.groups[at + 8..at + 12].copy_from_slice(&errno.to_le_bytes());
        }
    }

    /// Adds an entry to the group begun last.
    pub fn push(&mut self, entry: &Entry<'_>) {
        let at = self.groups.len() - GROUP;
        let count = u32::from_le_bytes(array(&self.groups[at..])) + 1;
        self.groups[at..at + 4].copy_from_slice(&count.to_le_bytes());
        self.kinds.push(entry.kind);
        self.modes.extend_from_slice(&entry.mode.to_le_bytes());
        self.sizes.extend_from_slice(&entry.size.to_le_bytes());
        self.seconds.extend_from_slice(&entry.mtime_s.to_le_bytes());
        self.nanos.extend_from_slice(&entry.mtime_ns.to_le_bytes());
        self.name_lens
            .extend_from_slice(&(entry.name.len() as u16).to_le_bytes());
        self.target_lens
            .extend_from_slice(&(entry.target.len() as u16).to_le_bytes());
        if entry.kind != SYMLINK && !entry.target.is_empty() {
            self.flags |= ORIGINS;
        }
        self.names.extend_from_slice(entry.name);
        self.targets.extend_from_slice(entry.target);
        if self.flags & OWNERS != 0 {
            self.uids.extend_from_slice(&entry.uid.to_le_bytes());
            self.gids.extend_from_slice(&entry.gid.to_le_bytes());
        }
        if self.flags & HASHES != 0 {
            self.hashes.extend_from_slice(&entry.hash);
        }
    }

    /// The entry pushed last is a name of a file that has others.
    pub fn link(&mut self, group: u32) {
        links::write((self.entries() as u32 - 1, group), &mut self.links);
        self.flags |= LINKS;
    }

    /// Of the entry pushed last, the content that had this size and time is remembered.
    pub fn remember(&mut self, stamp: Stamp) {
        remembered::write((self.entries() as u32 - 1, stamp), &mut self.remembered);
        self.flags |= REMEMBERED;
    }

    /// Entries so far.
    pub fn entries(&self) -> usize {
        self.kinds.len()
    }

    /// Groups so far.
    pub fn groups(&self) -> usize {
        self.group_count as usize
    }

    /// Bytes that `finish` will return.
    pub fn len(&self) -> usize {
        HEADER + self.columns().iter().map(|c| c.len()).sum::<usize>()
    }

    /// Whether nothing was begun.
    pub fn is_empty(&self) -> bool {
        self.group_count == 0
    }

    fn columns(&self) -> [&[u8]; 16] {
        [
            &self.groups,
            &self.kinds,
            &self.modes,
            &self.sizes,
            &self.seconds,
            &self.nanos,
            &self.name_lens,
            &self.target_lens,
            &self.uids,
            &self.gids,
            &self.hashes,
            &self.paths,
            &self.names,
            &self.targets,
            &self.remembered,
            &self.links,
        ]
    }

    /// The payload; the builder is empty again, with its memory kept.
    pub fn finish(&mut self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len());
        out.extend_from_slice(&LAYOUT.to_le_bytes());
        out.extend_from_slice(&self.flags.to_le_bytes());
        for n in [
            self.group_count as usize,
            self.kinds.len(),
            self.paths.len(),
            self.names.len(),
            self.targets.len(),
        ] {
            out.extend_from_slice(&(n as u32).to_le_bytes());
        }
        for column in self.columns() {
            out.extend_from_slice(column);
        }
        self.group_count = 0;
        self.flags &= !(LINKS | REMEMBERED | ORIGINS);
        for column in [
            &mut self.groups,
            &mut self.kinds,
            &mut self.modes,
            &mut self.sizes,
            &mut self.seconds,
            &mut self.nanos,
            &mut self.name_lens,
            &mut self.target_lens,
            &mut self.uids,
            &mut self.gids,
            &mut self.hashes,
            &mut self.paths,
            &mut self.names,
            &mut self.targets,
            &mut self.remembered,
            &mut self.links,
        ] {
            column.clear();
        }
        out
    }
}
