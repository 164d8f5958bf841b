//! A tree: all that is known about one root, under one filter set, without looking again.
//!
//! It advises which paths to look at. It proves nothing: whatever is listed or replaced is looked at first.
//!
//! ```text
//! events -> dirty -+                       +-> names:       lstat   -+
//!                  +-> refresh: what to -->|                         +-> index -> changes
//! what no watch    |   look at             +-> directories: walk    -+
//! tells of --------+                           (scan: watch, read, take over)
//! ```
//!
//! Locks, in the order in which they are taken: refreshing, a scan's progress, state, dirty. Events are read under none
//! but dirty, so that the kernel's queue is emptied whatever else goes on.

mod baselines;
mod changes;
pub mod dir;
mod dirty;
mod expect;
mod hashes;
pub mod index;
mod inodes;
#[cfg(test)]
mod live;
#[cfg(test)]
mod live_sessions;
pub mod looks;
#[cfg(test)]
mod model;
pub mod origins;
mod places;
mod python;
mod refresh;
pub mod root;
mod save;
mod saved;
pub mod scan;
pub mod signatures;
mod state;
mod sweep;
#[cfg(test)]
mod tests;
#[cfg(target_os = "linux")]
mod watch;
#[cfg(not(target_os = "linux"))]
#[path = "unwatched.rs"]
mod watch;

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::beneath::{Meta, Root, lock};
use crate::filter::Filter;
use crate::list;
use crate::wake::Wake;
use crate::walk;

pub use dir::{DirId, Expected, Stat};
pub use dirty::REFILL;
pub use expect::Rest;
pub use index::{Index, Listed, Seen};
pub use python::PyTree;
pub use save::LoadError;

use dirty::Dirty;
use scan::Scan;
use signatures::Signatures;
use state::State;
use sweep::Cursor;
use watch::Watch;

/// What could not be looked at.
const UNREADABLE: Stat = Stat {
    kind: list::UNREADABLE,
    mode: 0,
    size: 0,
    mtime: (0, 0),
    ctime: (0, 0),
    ino: 0,
    linked: false,
    uid: 0,
    gid: 0,
};

/// Why a refresh ended without a result.
#[derive(Debug)]
pub enum Trouble {
    /// The root could not be looked at.
    Io(io::Error),
    /// The root is gone (errno ENOENT) or not what it was (0): to go on would be to delete. The reason, for people.
    Paused(i32, String),
    /// The tree was closed.
    Closed,
}

impl From<io::Error> for Trouble {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

/// Whether nothing is known yet, the index's clock, and (id, tick) of each baseline of a key, newest first.
pub type Recalled = (bool, u64, Vec<([u8; 16], u64)>);

/// See the module.
pub struct Tree {
    path: Vec<u8>,
    options: walk::Options,
    filters: [u8; 32],
    threads: usize,
    watches_max: usize,
    /// One refresh at a time; where the next one goes on sweeping.
    refreshing: Mutex<Cursor>,
    state: Mutex<State>,
    dirty: Arc<Mutex<Dirty>>,
    /// None: there is no instance to be had, and everything is polled.
    watch: Option<Watch>,
    signatures: Arc<Signatures>,
    closed: AtomicBool,
    refreshes: AtomicU64,
    rescans: AtomicU64,
    looked: AtomicU64,
}

impl Tree {
    /// The tree at `root`, from a saved index when that fits. `wake` is signalled when something became dirty since the
    /// last refresh. The root need not be there yet.
    pub fn new(
        root: Vec<u8>,
        filters: &[Vec<u8>],
        index: Option<&[u8]>,
        threads: usize,
        watches_max: usize,
        wake: Wake,
    ) -> Result<Self, crate::filter::FilterError> {
        let options = walk::Options {
            filter: Filter::new(filters)?,
            hashes: false,
            known: None,
        };
        let dirty = Arc::new(Mutex::new(Dirty::new(wake)));
        let mut state = State::new();
        let watch = match Watch::new(Arc::clone(&dirty)) {
            Ok(watch) => Some(watch),
            Err(e) => {
                state.notice = no_watch(&e);
                None
            }
        };
        let filters = saved::filters_hash(filters);
        if let Ok(opened) = Root::open(&root) {
            state.meet(&opened);
            if let Some(path) = index {
                state.restore(path, &opened, &filters);
            }
        }
        Ok(Self {
            path: root,
            options,
            filters,
            threads,
            watches_max,
            refreshing: Mutex::default(),
            state: Mutex::new(state),
            dirty,
            watch,
            signatures: Arc::default(),
            closed: AtomicBool::new(false),
            refreshes: AtomicU64::new(0),
            rescans: AtomicU64::new(0),
            looked: AtomicU64::new(0),
        })
    }

    /// Whether nothing is known yet: the next walk with a `scan_sink`, or the next refresh, fills it.
    pub fn is_new(&self) -> bool {
        lock(&self.state).new
    }

    /// For a walk from the root and all below, with this tree's filters, that is made anyway; its end is told by
    /// `finish`.
    pub fn scan_sink(self: &Arc<Self>) -> Scan {
        Scan::new(Arc::clone(self), HashMap::new(), true)
    }

    /// What is remembered of files that were sent from here.
    pub fn signatures(&self) -> &Arc<Signatures> {
        &self.signatures
    }

    /// The index's clock.
    pub fn tick(&self) -> u64 {
        lock(&self.state).index.tick()
    }

    /// See `Index::changes`.
    pub fn changes(&self, since: u64, limit: usize) -> Option<Vec<u8>> {
        lock(&self.state).index.changes(since, limit)
    }

    /// See `Index::changed_since`.
    pub fn changed_since(&self, path: &[u8], since: u64) -> bool {
        lock(&self.state).index.changed_since(path, since)
    }

    /// See `Index::expect`; `fd` is the directory, where it is open, in which nothing is done yet.
    pub fn expect_group(
        &self,
        dir: &[u8],
        fd: Option<BorrowedFd<'_>>,
        entries: &mut dyn Iterator<Item = (&[u8], Expected)>,
        rest: Rest,
    ) {
        let mut state = lock(&self.state);
        let granule = state.granule;
        let mut count = 0;
        let gone = state
            .index
            .expect(dir, &mut entries.inspect(|_| count += 1), rest, granule);
        state.forget(&gone, self.watch.as_ref());
        if let Some(fd) = fd.filter(|_| count >= expect::AWAITED_MIN) {
            self.mute(&mut state, dir, fd);
        }
    }

    /// Of a directory of which the next refresh has to look at most, there are no events until then: some seven for each
    /// file that a session writes would tell nothing more. It is dirty as a whole, and watched again before it is read.
    fn mute(&self, state: &mut State, dir: &[u8], fd: BorrowedFd<'_>) {
        let most = state.index.find(dir).filter(|&dir| state.index.awaits_most(dir));
        let known = most.and_then(|dir| state.places.wd(dir));
        let (Some(watch), Some(wd)) = (&self.watch, known) else {
            return;
        };
        // One step for whoever takes the dirt: before it all was told, behind it all is to be read.
        let mut dirty = lock(&self.dirty);
        if let Ok(muted) = watch.mute(fd) {
            dirty.all(muted);
            if muted != wd {
                state.orphans.push(muted);
            }
        }
    }

    /// See `Index::expect_gone`.
    pub fn expect_gone(&self, path: &[u8]) {
        let mut state = lock(&self.state);
        let gone = state.index.expect_gone(path);
        state.forget(&gone, self.watch.as_ref());
    }

    /// See `Index::distrust`.
    pub fn distrust(&self, path: &[u8], deep: bool) {
        lock(&self.state).index.distrust(path, deep);
    }

    /// Whether something is known or expected to be at `path`, and whether that is distrusted.
    pub fn opinion(&self, path: &[u8]) -> (bool, bool) {
        let state = lock(&self.state);
        let (dir, name) = expect::split(path);
        let known = state.index.find(dir).and_then(|dir| state.index.get(dir, name));
        (known.is_some(), state.index.is_distrusted(path))
    }

    /// See `Index::commit`.
    pub fn commit(&self, key: [u8; 16], id: [u8; 16], tick: u64) {
        lock(&self.state).index.commit(key, id, tick);
    }

    /// See `Index::baselines`.
    pub fn baselines(&self, key: &[u8; 16]) -> Vec<([u8; 16], u64)> {
        lock(&self.state).index.baselines(key)
    }

    /// `is_new`, `tick` and `baselines` of one moment; None, if that would have to wait for somebody else.
    pub fn recall(&self, key: &[u8; 16]) -> Option<Recalled> {
        let state = self.state.try_lock().ok()?;
        Some((state.new, state.index.tick(), state.index.baselines(key)))
    }

    /// The size of a file in the directory `dir`, as it was when it was last looked at.
    pub fn known_size(&self, dir: &[u8], name: &[u8]) -> Option<u64> {
        let state = lock(&self.state);
        let stat = state.index.get(state.index.find(dir)?, name)?;
        (stat.kind == list::REGULAR).then_some(stat.size)
    }

    /// The content hash of a file in the directory `dir`, if it is known for just this state of it.
    pub fn cached_hash(&self, dir: &[u8], name: &[u8], meta: &Meta) -> Option<[u8; 32]> {
        lock(&self.state).index.hash(dir, name, &Stat::from(meta))
    }

    /// Remembers a content hash; `meta` is of the open file, before it was read and after. One that changed a moment
    /// ago is not remembered: it may change once more and show the same times.
    pub fn remember_hash(&self, dir: &[u8], name: &[u8], meta: &Meta, hash: [u8; 32]) {
        lock(&self.state).remember_hash(dir, name, &Stat::from(meta), hash);
    }

    /// The last thing that a person should know; "" for nothing.
    pub fn notice(&self) -> String {
        lock(&self.state).notice.clone()
    }

    /// Whether all that events named since the last refresh are a few files that were known and are closed again, or
    /// names that came and went. Waits for nobody: false while that cannot be told.
    pub fn at_rest(&self) -> bool {
        let Ok(state) = self.state.try_lock() else {
            return false;
        };
        lock(&self.dirty).at_rest(|wd, name| {
            let dir = state.places.dir(wd);
            dir.is_some_and(|dir| state.index.get(dir, name).is_some())
        })
    }

    /// How long until the first file that is held is due; None: none is held.
    pub fn held(&self) -> Option<Duration> {
        let due = lock(&self.dirty).due()?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    /// How often the kernel lost events. Waits for no refresh.
    pub fn overflows(&self) -> u64 {
        lock(&self.dirty).overflows
    }

    /// Name and value of every counter.
    pub fn counters(&self) -> [(&'static str, u64); 10] {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let overflows = self.overflows();
        let state = lock(&self.state);
        [
            ("entries", state.index.entries() as u64),
            ("dirs", state.index.dirs() as u64),
            ("bytes", state.index.bytes() as u64),
            ("remembered", self.signatures.bytes() as u64),
            ("watches", state.places.watched() as u64),
            ("unwatched", state.places.polled().len() as u64),
            ("overflows", overflows),
            ("rescans", get(&self.rescans)),
            ("refreshes", get(&self.refreshes)),
            ("looked", get(&self.looked)),
        ]
    }

    /// Ends the watch and any refresh; what is known stays readable.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        drop(lock(&self.refreshing));
        if let Some(watch) = &self.watch {
            watch.stop();
        }
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn count(&self, looks: usize) {
        self.looked.fetch_add(looks as u64, Ordering::Relaxed);
    }

    /// Watches an open directory at `path`; None where that cannot be.
    fn add_watch(&self, fd: BorrowedFd<'_>, path: &[u8]) -> Option<i32> {
        let watch = self.watch.as_ref()?;
        if lock(&self.state).is_full(path, self.watches_max) {
            return None;
        }
        match watch.add(fd) {
            Ok(wd) => Some(wd),
            Err(e) => {
                if e.raw_os_error() == Some(libc::ENOSPC) {
                    lock(&self.state).limited();
                }
                None
            }
        }
    }

    fn unwatch(&self, wd: Option<i32>) {
        if let (Some(watch), Some(wd)) = (&self.watch, wd) {
            watch.remove(wd);
        }
    }

    fn is_remote(&self, device: u64, fd: BorrowedFd<'_>) -> bool {
        if let Some(&known) = lock(&self.state).remote.get(&device) {
            return known;
        }
        let remote = root::is_remote(fd);
        lock(&self.state).remote.insert(device, remote);
        remote
    }
}

fn no_watch(e: &io::Error) -> String {
    match e.raw_os_error() {
        Some(libc::EMFILE) => {
            "nothing can be watched, every sync reads every directory: too many inotify instances of \
                               this user: raise the limit with: sudo sysctl fs.inotify.max_user_instances=1024"
                .to_owned()
        }
        _ => format!("nothing can be watched, every sync reads every directory: {e}"),
    }
}

/// Whether an error says that a path leads to no directory (any more).
fn is_gone(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP))
}
