//! Walks into the tree: each directory is watched before it is read, and taken over when it was read whole.

use std::collections::{HashMap, HashSet};
use std::ops::Deref;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::beneath::{self, Meta, join, lock, split};
use crate::list;
use crate::walk::{Part, Sink};

use super::dir::{DirId, Stat};
use super::dirty::Names;
use super::state::State;
use super::{Tree, UNREADABLE, is_gone};

/// Directories by path, with what is known of names in them that somebody may be writing.
pub type Held = HashMap<Vec<u8>, Names>;

/// A sink that fills the tree: for a refresh, or beside another sink for whoever walks the tree anyway.
pub struct Scan<T: Deref<Target = Tree> = Arc<Tree>> {
    tree: T,
    held: Held,
    /// Somebody else's walk: it ends when it does.
    tee: bool,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    /// Directories that are being read.
    open: HashMap<Box<[u8]>, Gather>,
    /// Directories that were read while their parent still is.
    early: HashMap<Box<[u8]>, Gather>,
    found: Found,
    finished: bool,
}

/// What a walk came across, that a further one has to look at.
#[derive(Default)]
pub struct Found {
    /// Directories of which nothing was known: read by now, if the walk was deep.
    pub new: Vec<DirId>,
    /// Paths that were to be directories and are not.
    pub missed: Vec<Vec<u8>>,
    /// Inodes that are newly known to have several names: those known before are to be looked at, too.
    pub linked: HashSet<u64>,
    /// Directories went, perhaps to another place.
    pub gone: bool,
}

/// A directory while it is read.
#[derive(Default)]
struct Gather {
    /// Its watch.
    wd: Option<i32>,
    /// No watch tells of every change in it.
    remote: bool,
    /// The directory itself.
    meta: Option<Meta>,
    entries: Vec<(Box<[u8]>, Stat)>,
    hashes: Vec<(Box<[u8]>, Stat, [u8; 32])>,
    /// Why not all of it could be read.
    errno: Option<i32>,
}

impl<T: Deref<Target = Tree>> Scan<T> {
    /// Fills `tree`; names in `held` are left as they are known while they are being written.
    pub(super) fn new(tree: T, held: Held, tee: bool) -> Self {
        if tee {
            lock(&tree.state).tees += 1;
        }
        Self {
            tree,
            held,
            tee,
            progress: Mutex::default(),
        }
    }

    /// The walk, from the root and all below, came to its end: the tree is filled.
    pub fn finish(&self) {
        lock(&self.progress).finished = true;
    }

    /// What it came across since the last call.
    pub(super) fn take_found(&self) -> Found {
        std::mem::take(&mut lock(&self.progress).found)
    }

    fn complete(&self, progress: &mut Progress, path: Box<[u8]>, gather: Gather) {
        let mut ready = vec![(path, gather)];
        while let Some((path, gather)) = ready.pop() {
            let (parent, _) = split(&path);
            let waits = !path.is_empty() && (progress.open.contains_key(parent) || progress.early.contains_key(parent));
            if waits {
                progress.early.insert(path, gather);
                continue;
            }
            self.merge(&path, gather, &mut progress.found);
            if !progress.early.is_empty() {
                let children = progress
                    .early
                    .extract_if(|child, _| !child.is_empty() && split(child).0 == &*path);
                ready.extend(children);
            }
        }
    }

    fn merge(&self, path: &[u8], mut gather: Gather, found: &mut Found) {
        let tree = &*self.tree;
        let mut guard = lock(&tree.state);
        let state = &mut *guard;
        if let Some(meta) = &gather.meta {
            found.gone |= state.itself(path, meta, tree.watch.as_ref());
        }
        let Some(dir) = state.index.find(path) else {
            // It is no directory of the tree by now; a later look at its parent says what it is.
            state.orphans.extend(gather.wd);
            return;
        };
        let old = match gather.wd {
            Some(wd) => state.places.bind(dir, wd, gather.remote || gather.errno.is_some()),
            None => state.places.poll(dir),
        };
        tree.unwatch(old);
        self.hold(state, path, dir, &mut gather.entries);
        if !state.new {
            for (name, stat) in gather.entries.iter().filter(|e| e.1.linked) {
                if !state.index.get(dir, name).is_some_and(|known| known.linked) {
                    found.linked.insert(stat.ino);
                }
            }
        }
        tree.count(gather.entries.len() + 1);
        if let Some(errno) = gather.errno {
            // That it may be read now would show in its change time; of anything else nothing can be told.
            if errno != libc::EACCES {
                state.index.distrust(path, true);
                state.unread.insert(path.to_vec());
            }
            for (name, stat) in gather.entries {
                let seen = state.index.look(dir, &name, Some(stat), state.granule);
                let (new, gone) = state.seen(seen, tree.watch.as_ref());
                found.new.extend(new);
                found.gone |= gone;
            }
        } else {
            for (name, _) in gather.entries.iter().filter(|e| e.1.kind == list::UNREADABLE) {
                state.index.distrust(&join(path, name), true);
            }
            if state.unread.remove(path) {
                state.index.trust(path, false);
            }
            let listed = state.index.listed(dir, &mut gather.entries, state.granule);
            found.gone |= !listed.gone.is_empty();
            state.forget(&listed.gone, tree.watch.as_ref());
            found.new.extend(listed.new);
        }
        for (name, stat, hash) in gather.hashes {
            state.remember_hash(path, &name, &stat, hash);
        }
    }

    /// Leaves files that are being written as they are known.
    fn hold(&self, state: &State, path: &[u8], dir: DirId, entries: &mut Vec<(Box<[u8]>, Stat)>) {
        let Some(held) = self.held.get(path) else {
            return;
        };
        let clock = Instant::now();
        let mut back = Names::default();
        entries.retain_mut(|(name, stat)| {
            let Some(touched) = held.names.get(name) else {
                return true;
            };
            let known = state.index.get(dir, name);
            let Some(due) = touched.held_until(Some(stat), known.as_ref(), clock) else {
                return true;
            };
            back.names.insert(name.clone(), touched.held(due));
            known.map(|known| *stat = known).is_some()
        });
        if let Some(wd) = state.places.wd(dir) {
            lock(&self.tree.dirty).put_back(wd, back);
        }
    }
}

impl<T: Deref<Target = Tree> + Sync> Sink for Scan<T> {
    fn enter(&self, path: &[u8], fd: BorrowedFd<'_>) {
        let meta = beneath::stat(fd).ok();
        let gather = Gather {
            wd: self.tree.add_watch(fd, path),
            remote: meta.is_none_or(|meta| self.tree.is_remote(meta.id.0, fd)),
            meta,
            ..Gather::default()
        };
        lock(&self.progress).open.insert(path.into(), gather);
    }

    fn part(&self, part: &Part<'_>) -> bool {
        let mut entries = Vec::new();
        let mut hashes = Vec::new();
        let named = part
            .entries()
            .zip(part.metas())
            .filter(|(entry, _)| !entry.name.is_empty());
        for (entry, meta) in named {
            let mut stat = meta.map_or(UNREADABLE, Stat::from);
            stat.kind = entry.kind;
            if entry.hash != [0; 32] {
                hashes.push((entry.name.into(), stat, entry.hash));
            }
            entries.push((entry.name.into(), stat));
        }
        let mut progress = lock(&self.progress);
        let Some(gather) = progress.open.get_mut(part.path) else {
            let gone = is_gone(&std::io::Error::from_raw_os_error(part.errno));
            if gone {
                progress.found.missed.push(part.path.to_vec());
            } else {
                let gather = Gather {
                    errno: Some(part.errno),
                    ..Gather::default()
                };
                self.complete(&mut progress, part.path.into(), gather);
            }
            return !self.tree.is_closed();
        };
        if gather.entries.is_empty() {
            gather.entries = entries;
        } else {
            gather.entries.append(&mut entries);
        }
        gather.hashes.append(&mut hashes);
        if part.flags & list::INCOMPLETE != 0 {
            gather.errno = Some(part.errno);
        }
        if part.flags & list::LAST != 0
            && let Some((path, gather)) = progress.open.remove_entry(part.path)
        {
            self.complete(&mut progress, path, gather);
        }
        !self.tree.is_closed()
    }
}

impl<T: Deref<Target = Tree>> Drop for Scan<T> {
    fn drop(&mut self) {
        let progress = lock(&self.progress);
        let mut state = lock(&self.tree.state);
        let left = progress.open.values().chain(progress.early.values());
        state.orphans.extend(left.filter_map(|gather| gather.wd));
        if self.tee {
            state.tees -= 1;
            // What it could not merge, or saw too early, is left to a look at everything.
            let whole = progress.finished && progress.open.is_empty();
            state.new &= !whole;
        }
    }
}
