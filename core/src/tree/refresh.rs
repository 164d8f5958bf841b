//! Makes the index true as of the call: looks at what events named, and at what no event can name.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::beneath::{self, Meta, Root, join, lock, split};
use crate::list::{self, DIRECTORY};
use crate::profile::Profile;
use crate::temp;
use crate::walk::{self, Start, Walk};

use super::dir::Stat;
use super::dirty::{Dirt, Names, Touched};
use super::index::Index;
use super::root::{self, Identity};
use super::scan::{Found, Held, Scan};
use super::{Tree, Trouble, UNREADABLE, is_gone};

/// Events that came while directories were moved about are looked at, too, so many times: then the tree is not still.
const ROUNDS: u32 = 4;
/// How often a walk may find that directories are elsewhere by now.
const WALKS: u32 = 16;
/// Below so many directories to be read, reading all of them by several threads is not worth it,
const FEW: usize = 64;
/// and above it, it is when they are more than this part of all.
const PART: usize = 4;

/// Names to look at, by directory, in the order of paths.
type Work = BTreeMap<Vec<u8>, HashMap<Box<[u8]>, Touched>>;

/// What is to be looked at.
#[derive(Default)]
struct Plan {
    everything: bool,
    names: Work,
    starts: Vec<Start>,
    held: Held,
    /// See `Found`.
    linked: HashSet<u64>,
}

impl Plan {
    fn read(&mut self, path: Vec<u8>, deep: bool) {
        self.starts.push(Start { path, deep });
    }

    fn is_done(&self) -> bool {
        self.starts.is_empty() && self.names.is_empty()
    }

    fn look(&mut self, path: &[u8]) {
        let (dir, name) = split(path);
        let names = self.names.entry(dir.to_vec()).or_default();
        names.entry(name.into()).or_insert_with(|| Touched::at(Instant::now()));
    }
}

impl Tree {
    /// Blocks. True: the index is true as of the call. False: directories are being moved about faster than they are
    /// read. With `hold`, files that are being written stay as they are known, and dirty. `sweep` is how many
    /// files that no event tells of are looked at; with `hold` none are.
    pub fn refresh(&self, hold: bool, sweep: usize) -> Result<bool, Trouble> {
        let mut cursor = lock(&self.refreshing);
        if self.is_closed() {
            return Err(Trouble::Closed);
        }
        self.refreshes.fetch_add(1, Ordering::Relaxed);
        let root = self.open_root()?;
        let mut still = false;
        for round in 0..ROUNDS {
            let dirt = self.drain();
            if round > 0 && dirt.is_empty() {
                still = true;
                break;
            }
            let mut plan = self.plan(dirt, round == 0);
            // With `hold` a file that differs may be one that is being written, whose event comes only now.
            if round == 0 && !plan.everything && !hold && sweep > 0 {
                for path in self.sweep(&root, &mut cursor, sweep) {
                    plan.look(&path);
                }
            }
            if !hold {
                plan.held.clear();
            }
            let moved = if plan.everything {
                self.rescan(&root, plan.held)
            } else {
                self.look(&root, plan, hold)
            };
            if self.is_closed() {
                return Err(Trouble::Closed);
            }
            if !moved {
                still = true;
                break;
            }
        }
        let mut state = lock(&self.state);
        if state.tees == 0 {
            // Nobody is left who could hold an id, or bind a watch that is nobody's.
            state.index.recycle();
            for wd in std::mem::take(&mut state.orphans) {
                if state.places.dir(wd).is_none() {
                    self.unwatch(Some(wd));
                }
            }
        }
        Ok(still)
    }

    /// Opens the root by its path again: what is known is of the root that it was.
    fn open_root(&self) -> Result<Root, Trouble> {
        let root = Root::open(&self.path).map_err(|e| match is_gone(&e) {
            true => Trouble::Paused(libc::ENOENT, "the root is gone".to_owned()),
            false => Trouble::Io(e),
        })?;
        let identity = Identity::of(&root)?;
        let meta = beneath::stat(root.fd())?;
        let mut state = lock(&self.state);
        state.limited = false;
        match state.identity {
            Some(known) if known == identity && !state.suspect => {}
            None => state.meet(&root),
            _ => {
                let knew = state.suspect || state.index.entries() > 0;
                if knew && root::is_empty(&root)? {
                    let reason = "the root was replaced by an empty directory";
                    return Err(Trouble::Paused(0, reason.to_owned()));
                }
                state.index = Index::new();
                for wd in state.places.clear() {
                    self.unwatch(Some(wd));
                }
                state.unread.clear();
                (state.new, state.suspect) = (true, false);
                state.notice = "the root is another directory than before: everything is compared again".to_owned();
                state.meet(&root);
            }
        }
        let granule = state.granule;
        state.index.root_stat(Stat::from(&meta), granule);
        Ok(root)
    }

    /// Takes all dirt of before the call.
    fn drain(&self) -> Dirt {
        if let Some(watch) = &self.watch {
            lock(&self.dirty).hush();
            watch.drain();
        }
        lock(&self.dirty).take()
    }

    /// What dirt stands for; and, at `first`, what no event tells of.
    fn plan(&self, mut dirt: Dirt, first: bool) -> Plan {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let mut plan = Plan {
            everything: dirt.everything || state.new || state.stale,
            ..Plan::default()
        };
        if state.tees > 0 {
            // A walk may have read a directory before this, and hand it over after it.
            let mut dirty = lock(&self.dirty);
            for (&wd, names) in &dirt.dirs {
                dirty.put_back(wd, names.clone());
            }
            if dirt.everything {
                dirty.stay();
            }
        }
        for wd in dirt.lost.drain(..) {
            state.places.lost(wd);
        }
        for (wd, names) in dirt.dirs {
            let Some(path) = state.places.dir(wd).and_then(|dir| state.index.path(dir)) else {
                continue;
            };
            if names.all {
                plan.read(path.clone(), false);
                plan.held.insert(path, names);
            } else {
                plan.names.insert(path, names.names);
            }
        }
        if first && !plan.everything {
            let now = Touched::at(Instant::now());
            let add = |plan: &mut Plan, path: Vec<u8>, name: Box<[u8]>| {
                plan.names.entry(path).or_default().entry(name).or_insert(now);
            };
            for (dir, name) in state.index.linked() {
                if let Some(path) = state.index.path(dir) {
                    add(&mut plan, path, name);
                }
            }
            for dir in state.index.take_unverified() {
                let Some(path) = state.index.path(dir).filter(|path| !plan.held.contains_key(path)) else {
                    continue;
                };
                if state.index.is_read(dir) {
                    for name in state.index.unverified(dir) {
                        add(&mut plan, path.clone(), name);
                    }
                } else {
                    plan.read(path, false);
                }
            }
            for &dir in state.places.polled() {
                plan.starts
                    .extend(state.index.path(dir).map(|path| Start { path, deep: false }));
            }
        }
        plan.everything |= plan.starts.len() > FEW && plan.starts.len() * PART > state.index.dirs();
        if plan.everything {
            for (path, names) in std::mem::take(&mut plan.names) {
                plan.held.entry(path).or_default().names.extend(names);
            }
        }
        plan
    }

    /// Reads everything; whether directories went.
    fn rescan(&self, root: &Root, held: Held) -> bool {
        self.rescans.fetch_add(1, Ordering::Relaxed);
        {
            let mut state = lock(&self.state);
            // Each of them is read now.
            state.index.take_unverified();
        }
        let mut plan = Plan {
            everything: true,
            held,
            ..Plan::default()
        };
        plan.read(Vec::new(), true);
        let moved = self.look(root, plan, false);
        if !self.is_closed() {
            let mut state = lock(&self.state);
            (state.new, state.stale) = (false, false);
        }
        moved
    }

    /// Looks at names, then reads directories, then what these showed; whether directories went.
    fn look(&self, root: &Root, mut plan: Plan, hold: bool) -> bool {
        let mut moved = false;
        for _ in 0..WALKS {
            for (path, names) in std::mem::take(&mut plan.names) {
                moved |= self.look_at(root, &path, names, hold, &mut plan);
            }
            self.find_names(&mut plan);
            if plan.is_done() || self.is_closed() {
                return moved;
            }
            if plan.starts.is_empty() {
                continue;
            }
            let starts = std::mem::take(&mut plan.starts);
            let found = self.walk(root, starts, std::mem::take(&mut plan.held));
            moved |= found.gone || !found.missed.is_empty();
            if !plan.everything {
                plan.linked = found.linked;
            }
            let mut state = lock(&self.state);
            for dir in found.new {
                if let Some(path) = state.index.path(dir).filter(|_| !state.index.is_read(dir)) {
                    plan.read(path, true);
                }
            }
            for path in found.missed.iter().filter(|path| !path.is_empty()) {
                // Its parent knows better: gone, something else, or there again, and then it is still to be read.
                if let Some(dir) = state.index.find(path) {
                    let wd = state.places.forget(dir);
                    self.unwatch(wd);
                }
                plan.look(path);
            }
        }
        // Directories change places all the time: nothing of it is forgotten.
        lock(&self.dirty).stay();
        true
    }

    /// Of a file that has a new name, no event names the ones that it had: that it is linked now is to be known of them.
    fn find_names(&self, plan: &mut Plan) {
        if !plan.linked.is_empty() {
            let inodes = std::mem::take(&mut plan.linked);
            let names = lock(&self.state).index.names_of(&inodes);
            names.iter().for_each(|path| plan.look(path));
        }
    }

    fn walk(&self, root: &Root, starts: Vec<Start>, held: Held) -> Found {
        let starts = apart(starts);
        let scan = Scan::new(self, held, false);
        let profile = Profile::new(false);
        let walk = Walk::at(starts, root, &self.options, &scan, &profile, &self.closed);
        std::thread::scope(|scope| walk::join_in(&walk, self.threads, scope));
        scan.take_found()
    }

    /// Looks at names of one directory; whether directories went.
    fn look_at(
        &self,
        root: &Root,
        path: &[u8],
        names: HashMap<Box<[u8]>, Touched>,
        hold: bool,
        plan: &mut Plan,
    ) -> bool {
        let opened = root.open_dir(path).and_then(|fd| Ok((beneath::stat(&fd)?, fd)));
        let (own, fd) = match opened {
            Ok(opened) => opened,
            Err(e) if is_gone(&e) && !path.is_empty() => {
                plan.look(path);
                return true;
            }
            // What can be told of a directory that cannot be opened, a walk tells.
            Err(_) => {
                plan.read(path.to_vec(), false);
                return false;
            }
        };
        let looks: Vec<_> = names
            .into_iter()
            .filter(|(name, _)| list::is_component(name) && !temp::is_private(name))
            .map(|(name, touched)| {
                let meta = match beneath::stat_at(&fd, &name) {
                    Ok(meta) => Some(Stat::from(&meta)),
                    Err(e) if is_gone(&e) => None,
                    Err(_) => Some(UNREADABLE),
                };
                (name, touched, meta)
            })
            .collect();
        self.count(looks.len() + 1);
        self.take_over(path, &own, looks, hold, plan)
    }

    fn take_over(
        &self,
        path: &[u8],
        own: &Meta,
        looks: Vec<(Box<[u8]>, Touched, Option<Stat>)>,
        hold: bool,
        plan: &mut Plan,
    ) -> bool {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let watch = self.watch.as_ref();
        let known = state.index.find(path);
        let mut moved = state.itself(path, own, watch);
        let Some(dir) = state.index.find(path) else {
            return moved;
        };
        if known != Some(dir) {
            plan.read(path.to_vec(), true);
            return moved;
        }
        let clock = Instant::now();
        let mut back = Names::default();
        for (name, touched, now) in looks {
            let full = join(path, &name);
            let excluded = |stat: &Stat| self.options.filter.excludes(&full, stat.kind == DIRECTORY);
            let now = now.filter(|stat| !excluded(stat));
            let known = state.index.get(dir, &name);
            if let Some(stat) = now.filter(|stat| stat.linked && !known.is_some_and(|k| k.linked)) {
                plan.linked.insert(stat.ino);
            }
            if hold && let Some(due) = touched.held_until(now.as_ref(), known.as_ref(), clock) {
                back.names.insert(name, touched.held(due));
                continue;
            }
            if now.is_some_and(|stat| stat.kind == list::UNREADABLE) {
                state.index.distrust(&full, true);
            }
            let directory = now.is_some_and(|stat| stat.kind == DIRECTORY);
            let seen = state.index.look(dir, &name, now, state.granule);
            let (new, gone) = state.seen(seen, watch);
            moved |= gone;
            // One that is known and has no watch was expected, or could not be opened before.
            let read = new.is_some() || directory && state.index.find(&full).is_some_and(|id| !state.places.knows(id));
            if read {
                plan.read(full, true);
            }
        }
        if let Some(wd) = state.places.wd(dir) {
            lock(&self.dirty).put_back(wd, back);
        }
        moved
    }
}

/// Each directory once: two walkers in one would take each other's names.
fn apart(starts: Vec<Start>) -> Vec<Start> {
    let mut known: BTreeMap<Vec<u8>, bool> = BTreeMap::new();
    for start in starts {
        *known.entry(start.path).or_default() |= start.deep;
    }
    let covered = |path: &[u8]| {
        let mut above = path;
        while !above.is_empty() {
            above = split(above).0;
            if known.get(above) == Some(&true) {
                return true;
            }
        }
        false
    };
    let roots = known.iter().filter(|(path, _)| !covered(path));
    roots
        .map(|(path, &deep)| Start {
            path: path.clone(),
            deep,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_directory_is_read_by_two_walkers() {
        let start = |path: &str, deep| Start {
            path: path.into(),
            deep,
        };
        let starts = vec![
            start("d", false),
            start("e/f/g", true),
            start("d", true),
            start("e", false),
            start("d/x/y", false),
            start("dx", false),
        ];
        let found: Vec<_> = apart(starts).into_iter().map(|s| (s.path, s.deep)).collect();
        let path = |path: &str, deep| (path.as_bytes().to_vec(), deep);
        assert_eq!(
            found,
            [
                path("d", true),
                path("dx", false),
                path("e", false),
                path("e/f/g", true)
            ]
        );
    }
}
