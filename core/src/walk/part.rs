//! Entries on their way from a directory to the list.

use crate::beneath::Meta;
use crate::list::{self, Entry};

use super::one::Content;

/// A part holds at most so many entries, so that a huge directory flows in bounded memory.
pub(super) const PART_ENTRIES: usize = 1024;
/// And so many bytes of names and targets.
const PART_TEXT: usize = 64 << 10;

/// A part of a directory (or all of it).
pub struct Part<'a> {
    /// The directory, relative to the root.
    pub path: &'a [u8],
    /// Group flags of `list`.
    pub flags: u8,
    /// Why it is INCOMPLETE.
    pub errno: i32,
    pub(super) found: &'a Found,
}

impl Part<'_> {
    /// Its entries, in order.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.found.items.iter().map(|item| self.found.entry(item))
    }

    /// For each entry what `lstat` said; None: it could not be looked at.
    pub fn metas(&self) -> impl Iterator<Item = Option<&Meta>> {
        self.found.items.iter().map(|item| item.meta.as_ref())
    }

    /// For each entry what it is a name of: device, inode, and how many names that has. None: it is the only one.
    pub fn linked(&self) -> impl Iterator<Item = Option<Linked>> {
        self.found.items.iter().map(|item| {
            let meta = item.meta.filter(|m| m.links > 1)?;
            matches!(item.kind, list::REGULAR | list::SYMLINK).then_some((meta.id, meta.links))
        })
    }
}

/// Device and inode of something that has several names, and how many.
pub type Linked = ((u64, u64), u64);

/// What was found in a directory since its last part.
#[derive(Default)]
pub(super) struct Found {
    items: Vec<Item>,
    /// Names, each with its link's target behind it.
    text: Vec<u8>,
}

struct Item {
    kind: u8,
    meta: Option<Meta>,
    name_len: u16,
    target_len: u16,
    text: u32,
    hash: [u8; 32],
    /// A directory that is listed whole behind a PARTIAL group that names it.
    deep: bool,
}

impl Found {
    fn entry(&self, item: &Item) -> Entry<'_> {
        let text = &self.text[item.text as usize..];
        let (name, rest) = text.split_at(item.name_len.into());
        let meta = item.meta.as_ref();
        Entry {
            kind: item.kind,
            mode: meta.map_or(0, |m| m.mode),
            size: match (item.kind, meta) {
                (list::REGULAR, Some(meta)) => meta.size,
                _ => item.deep.into(),
            },
            mtime_s: meta.map_or(0, |m| m.mtime_s),
            mtime_ns: meta.map_or(0, |m| m.mtime_ns),
            uid: meta.map_or(0, |m| m.uid),
            gid: meta.map_or(0, |m| m.gid),
            name,
            target: &rest[..item.target_len.into()],
            hash: item.hash,
        }
    }

    /// What `name` stands for; "" is the root itself.
    pub(super) fn push(&mut self, meta: Option<Meta>, name: &[u8], content: &Content) {
        self.items.push(Item {
            kind: content.kind,
            meta,
            name_len: name.len() as u16,
            target_len: content.target.len() as u16,
            text: self.text.len() as u32,
            hash: content.hash,
            deep: false,
        });
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(&content.target);
    }

    /// The directory pushed last is listed whole behind the group.
    pub(super) fn deepen(&mut self) {
        if let Some(item) = self.items.last_mut() {
            item.deep = true;
        }
    }

    pub(super) fn clear(&mut self) {
        self.items.clear();
        self.text.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether it is time for a part.
    pub(super) fn is_full(&self) -> bool {
        self.items.len() >= PART_ENTRIES || self.text.len() >= PART_TEXT
    }
}
