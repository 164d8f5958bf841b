//! The receiver: compares a file list with one destination tree, asks for what differs, applies it.
//!
//! One *generator* thread takes chunks in order (`compare`), so that a directory is there before what is in it. A pool
//! of *workers* computes signatures (`basis`), applies data (`whole`, `pieces`) and at last finishes (`finish`). Calls from
//! Python only move things in and out of queues.

mod advice;
mod aliases;
mod apply;
mod asides;
mod basis;
mod batch;
mod commit;
mod compare;
mod conflict;
mod dirs;
mod durable;
mod enter;
mod entries;
mod finish;
mod flush;
mod fresh;
mod full;
mod groups;
mod itemize;
mod large;
mod linking;
mod moving;
mod named;
mod outbox;
mod pieces;
mod problems;
mod python;
mod queue;
mod root;
mod state;
mod survey;
mod symlinks;
mod threads;
mod trash;
mod whole;

#[cfg(any(test, feature = "fuzz"))]
pub use apply::last_chunk_untrusted;
pub use problems::unpack_problems_untrusted;
pub use python::Receiver;

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread::JoinHandle;

use crate::beneath::{self, Handles, Root, lock, split};
use crate::filter::Filter;
use crate::landlock::Confinement;
use crate::list;
use crate::profile::Profile;
use crate::temp::Namer;
use crate::tree::Tree;
use asides::Aside;
use conflict::OnConflict;
use dirs::Dirs;
use durable::{Durable, Fsync};
use groups::Groups;
use large::Large;
use named::Taken;
use outbox::{Counters, Outbox};
use queue::Queue;
use state::Pending;
use trash::Trash;

/// What Python chose for one session.
pub struct Options {
    pub filter: Filter,
    pub delete: bool,
    pub hashes: bool,
    pub owner: bool,
    pub group: bool,
    pub hard_links: bool,
    pub dry_run: bool,
    pub itemize: bool,
    pub force: bool,
    pub max_delete: Option<u64>,
    /// More deletions than these, and than half of what is there, need `force`.
    pub delete_few: Option<u64>,
    pub arrow: u8,
    pub delta_min: u64,
    pub partial_min: u64,
    /// The list tells of single names, in as many LIST-ENDs as were asked for.
    pub partial: bool,
    /// What comes before the first LIST-END is refused.
    pub skip_first: bool,
    pub on_conflict: OnConflict,
    /// Threads restrict themselves to the destination.
    pub confine: bool,
    pub fsync: Fsync,
    /// The tick of the tree at the baseline: what it says has changed later, someone else has changed.
    pub since: Option<u64>,
}

/// Why a session ended by itself: (code of `proto.errors`, path, errno, what was being done).
pub type Failure = (&'static str, Vec<u8>, i32, String);

/// Problem codes: docs/protocol.md, PROBLEMS.
pub mod problem {
    pub const CHANGED: u8 = 2;
    pub const UNREADABLE: u8 = 3;
    pub const UNREADABLE_DIR: u8 = 4;
    pub const WRITE: u8 = 5;
    pub const VERIFY: u8 = 6;
    pub const IN_THE_WAY: u8 = 7;
    pub const NOT_DELETED: u8 = 8;
    pub const METADATA: u8 = 9;
    pub const NAME: u8 = 10;
    pub const CHANGED_HERE: u8 = 12;
    pub const HELD: u8 = 13;
    /// Of two paths, with a NUL between.
    pub const TWIN: u8 = 14;
    pub const MAX: u8 = 14;
}

/// The destination before the session.
pub enum Before {
    /// Nothing; its parent, and the name to make there.
    Missing(Root, Vec<u8>),
    /// A directory, and whether it is empty.
    Directory(Root, bool),
    /// A regular file (or a symlink to one); its parent and name.
    File(Root, Vec<u8>),
}

/// All that the threads share.
pub struct Shared {
    /// For the threads that are started later.
    me: Weak<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    pub options: Options,
    pub root_path: Vec<u8>,
    pub before: Before,
    /// Set by the generator when chunk 0 has said what the source is; None inside when there is nothing (dry run).
    pub handles: OnceLock<Option<Handles>>,
    /// What the threads may open, from then on.
    pub confinement: OnceLock<Confinement>,
    /// The destination's own name, when the source is one file.
    pub single: OnceLock<Vec<u8>>,
    pub namer: Namer,
    /// Whether this process may give files away.
    pub privileged: bool,
    /// To which groups it may give them otherwise.
    pub groups: Vec<u32>,
    /// The root was missing or empty: everything is wanted, no WANT is sent.
    pub wants_all: bool,
    /// What is known about the root.
    pub tree: Option<Arc<Tree>>,
    pub taken: Mutex<Taken>,
    /// The step in which the destination stores times, in ns.
    pub granule: OnceLock<u32>,
    pub durable: Durable,
    pub queue: Queue,
    pub out: Outbox,
    pub counters: Counters,
    pub profile: Profile,
    pub pending: Mutex<HashMap<u32, Arc<Pending>>>,
    pub large: Mutex<HashMap<(u32, u32), Arc<Large>>>,
    pub dirs: Mutex<Dirs>,
    /// Directories without a name that are open.
    pub fresh_open: AtomicU64,
    pub linked: Mutex<Groups>,
    pub asides: Mutex<Vec<Aside>>,
    /// New paths of directories that were renamed. The tree knows what is in them by their old ones.
    pub moved: Mutex<HashSet<Vec<u8>>>,
    /// Entries in directories that make room for something else, or of old names: deletions, too.
    pub replaced: AtomicU64,
    /// Those among them that are here still, under another name; in a dry run, that would be.
    pub renamed: AtomicU64,
    /// Nothing is deleted: what would be is counted.
    pub held: AtomicBool,
    /// Where what is deleted or overwritten goes.
    pub trash: Option<Trash>,
    pub failure: Mutex<Option<Failure>>,
    pub stop: AtomicBool,
    /// The destination is full: what still comes is dropped, deletions run, then the session fails.
    pub full: AtomicBool,
    /// ENOSPC or EDQUOT, then.
    pub full_errno: AtomicI32,
}

impl Shared {
    /// The destination's handles. Err when there is no tree to look at: a dry run over a missing root.
    pub fn handles(&self) -> io::Result<&Handles> {
        match self.handles.get() {
            Some(Some(handles)) => Ok(handles),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Something was changed in the directory `dir` that takes more than itself to be on disk. One that cannot be opened
    /// any more is another's affair.
    fn restructured(&self, dir: &[u8]) {
        if !self.durable.is_off()
            && let Ok(dir) = self.handles().and_then(|handles| handles.dir(dir))
        {
            let _ = self.durable.restructured(&dir);
        }
    }

    /// The attributes of `entry`, which is in `dir`, were set.
    fn adjusted(&self, dir: &[u8], entry: &list::Entry<'_>) -> io::Result<()> {
        if self.durable.is_off() {
            return Ok(());
        }
        let dir = self.handles()?.dir(dir)?;
        match beneath::open_read_at(&*dir, entry.name) {
            Ok((file, _)) => self.durable.wrote(&dir, &Arc::new(file)),
            // A symlink, or a file that its owner may not read.
            Err(_) => self.durable.restructured(&dir),
        }
    }

    /// Ends the session; the first reason stays.
    pub fn fail(&self, code: &'static str, path: &[u8], errno: i32, what: &str) {
        lock(&self.failure).get_or_insert_with(|| (code, path.to_vec(), errno, what.to_owned()));
        self.stop.store(true, Ordering::Release);
        self.queue.wake_all();
        self.out.signal();
    }

    /// Ends the session because the peer broke the protocol.
    pub fn violation(&self, what: &str) {
        self.fail("protocol", b"", 0, what);
    }

    /// Whether the threads are to end.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// The owners to set, where that was asked for and is possible.
    pub fn owners(&self, uid: u32, gid: u32) -> (Option<u32>, Option<u32>) {
        let uid = (self.options.owner && self.privileged).then_some(uid);
        let gid = (self.options.group && (self.privileged || self.groups.contains(&gid))).then_some(gid);
        (uid, gid)
    }

    /// An ordinary user may give files to no one and only to groups of their own: as with rsync, what is refused to
    /// them is left as it is.
    pub fn forgive(&self, result: io::Result<()>) -> io::Result<()> {
        match result {
            Err(e) if !self.privileged && e.raw_os_error() == Some(libc::EPERM) => Ok(()),
            other => other,
        }
    }

    /// Whether what the source does not have goes.
    pub fn deletes(&self) -> bool {
        self.options.delete && !self.held.load(Ordering::Acquire)
    }

    /// Whether two times are the same as far as the destination can tell.
    pub fn same_time(&self, listed: (i64, u32), stored: (i64, u32)) -> bool {
        let granule = i128::from(self.granule.get().copied().unwrap_or(1));
        let floor = |(s, ns): (i64, u32)| (i128::from(s) * 1_000_000_000 + i128::from(ns)).div_euclid(granule);
        listed == stored || floor(listed) == floor(stored)
    }

    /// Trouble with one path: a problem, or the end of the session where it is the whole destination's.
    pub fn trouble(&self, code: u8, path: &[u8], e: &io::Error) {
        let errno = e.raw_os_error().unwrap_or(libc::EIO);
        if matches!(code, problem::WRITE | problem::NOT_DELETED) {
            self.doubt(path, errno);
        }
        match errno {
            libc::EROFS => self.fail("destination-read-only", &self.root_path, errno, "writing"),
            libc::ENOSPC | libc::EDQUOT => {
                self.full_errno.store(errno, Ordering::Relaxed);
                self.full.store(true, Ordering::Release);
            }
            libc::EEXIST if self.is_there_otherwise(path) => {}
            libc::ENAMETOOLONG | libc::EILSEQ => self.out.problem(&self.counters, problem::NAME, errno, path),
            _ => self.out.problem(&self.counters, code, errno, path),
        }
    }

    /// Whether `path` is there by another spelling, which was told.
    fn is_there_otherwise(&self, path: &[u8]) -> bool {
        let (parent, name) = split(path);
        let dir = self.handles().and_then(|h| h.dir(parent));
        dir.is_ok_and(|fd| self.is_twin(&fd, name, path))
    }

    /// What failed may have failed as a directory was moved away or replaced under our hands. It may be back before the tree
    /// looks, as if nothing had happened: the next session is to look at it afresh.
    fn doubt(&self, path: &[u8], errno: i32) {
        let Some(tree) = self.tree.as_ref().filter(|_| self.single.get().is_none()) else {
            return;
        };
        let (parent, _) = split(path);
        let allowed = || {
            self.handles()
                .and_then(|h| h.dir(parent))
                .is_ok_and(|fd| beneath::may_change(&*fd))
        };
        match errno {
            libc::ENOENT | libc::ENOTDIR | libc::ELOOP => tree.distrust(path, true),
            // Its mode would allow it: it was held when it left the root, and with it what could not be tidied up there.
            libc::EXDEV => tree.distrust(parent, true),
            libc::EACCES if self.options.confine && allowed() => tree.distrust(parent, true),
            _ => {}
        }
    }
}
