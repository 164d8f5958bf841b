//! What the receiver tells the tree about its root, and asks it: the tree advises, what is there decides.
//!
//! The tree learns what each listed entry is to become, a group at a time. Whatever becomes something else, for what
//! reason ever, it finds changed when it looks next.

use std::os::fd::{AsFd, OwnedFd};

use super::Shared;
use super::aliases::Aliases;
use super::compare::Generator;
use super::dirs::Dir;
use super::entries::At;
use crate::beneath::{Meta, lock, split};
use crate::list::{self, Chunk, Entry, GONE, Group, REGULAR};
use crate::tree::{Expected, Rest, Tree};

impl From<&Entry<'_>> for Expected {
    fn from(entry: &Entry<'_>) -> Self {
        Self {
            kind: entry.kind,
            mode: entry.mode,
            size: if entry.kind == REGULAR { entry.size } else { 0 },
            mtime: (entry.mtime_s, entry.mtime_ns),
        }
    }
}

impl Shared {
    /// The tree, when this session is to change what it knows.
    pub fn told(&self) -> Option<&Tree> {
        let silent = self.options.dry_run || self.single.get().is_some();
        self.tree.as_deref().filter(|_| !silent)
    }

    /// Whether someone else changed what is at `path` since the baseline.
    pub fn changed_here(&self, path: &[u8]) -> bool {
        match (&self.tree, self.options.since) {
            // What is in a directory that was moved was asked about before, by its old path.
            (Some(tree), Some(since)) => !self.was_moved(path) && tree.changed_since(path, since),
            _ => false,
        }
    }

    fn was_moved(&self, mut path: &[u8]) -> bool {
        let moved = lock(&self.moved);
        while !moved.is_empty() && !path.is_empty() {
            if moved.contains(path) {
                return true;
            }
            path = split(path).0;
        }
        false
    }
}

impl Generator<'_> {
    /// Tells what a compared group is to become; `fd` is its directory. What is to be deleted is told when that is decided.
    pub(super) fn tell(&self, dir: &Dir, fd: Option<&OwnedFd>, chunk: &Chunk, group: &Group, aliases: &Aliases<'_>) {
        let Some(tree) = self.shared.told() else { return };
        let range = group.start..group.start + group.entries;
        let kept = aliases.kept.iter();
        let kept = kept.map(|(i, other)| (&**other, Expected::from(&chunk.entry(*i))));
        let entries = range.filter_map(|i| {
            let entry = chunk.entry(i);
            (entry.kind != GONE).then(|| (entry.name, Expected::from(&entry)))
        });
        let mut entries = entries.chain(kept);
        let whole = group.flags == list::FIRST | list::LAST && dir.complete && dir.unlisted.is_empty();
        let rest = match (self.shared.options.delete, whole) {
            (false, _) => Rest::Unsaid,
            (true, false) => Rest::Told,
            (true, true) => Rest::Gone,
        };
        tree.expect_group(&dir.path, fd.map(AsFd::as_fd), &mut entries, rest);
    }

    /// A path of which the tree is to expect nothing, once the chunk was compared.
    pub(super) fn distrust(&self, path: &[u8], deep: bool) {
        if self.shared.told().is_some() {
            self.distrusted.borrow_mut().push((path.to_vec(), deep));
        }
    }

    /// Tells of them.
    pub(super) fn tell_distrusted(&self) {
        for (path, deep) in self.distrusted.take() {
            if let Some(tree) = self.shared.told() {
                tree.distrust(&path, deep);
            }
        }
    }

    pub(super) fn known_hash(&self, at: &At<'_>, name: &[u8], meta: &Meta) -> Option<[u8; 32]> {
        self.shared.tree.as_ref()?.cached_hash(split(&at.path).0, name, meta)
    }

    pub(super) fn remember_hash(&self, at: &At<'_>, name: &[u8], meta: &Meta, hash: [u8; 32]) {
        if let Some(tree) = &self.shared.tree {
            tree.remember_hash(split(&at.path).0, name, meta, hash);
        }
    }
}
