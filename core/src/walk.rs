//! Walks one source tree with several threads and hands out what it finds, part by part.
//!
//! Every directory is opened by its parent's handle, or beneath the root when that was not kept; no symlink below the
//! root is followed. A directory's parts come in order, and before those of its children. Depth costs no stack, and
//! neither depth nor width costs handles: at most `HANDLES_MAX` directories are held open for waiting children.

pub mod names;
mod one;
mod part;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::Scope;

use rustix::io::Errno;

use crate::beneath::{self, Root, lock};
use crate::filter::Filter;
use crate::landlock;
use crate::list;
use crate::profile::{Profile, Stage};

use one::{Content, Seen, Space};
pub use one::{Hashes, Lens, hash_file};
use part::Found;
pub use part::{Linked, Part};

/// Directories held open for children that wait; beyond it children are opened beneath the root.
const HANDLES_MAX: usize = 128;
/// A stack of this size holds a directory block and shallow calls.
const STACK: usize = 256 << 10;
/// Before a file of this size is hashed, what was found so far goes out.
const HASH_ALONE: u64 = 4 << 20;

/// Where parts go.
pub trait Sink: Sync {
    /// Takes a part of a directory; may wait for room. False: the walk stops.
    fn part(&self, part: &Part<'_>) -> bool;

    /// The directory `path` was opened, and nothing of it was read yet.
    fn enter(&self, _path: &[u8], _fd: BorrowedFd<'_>) {}
}

/// A directory at which a walk begins.
pub struct Start {
    /// Relative to the root, which is "".
    pub path: Vec<u8>,
    /// With everything below it.
    pub deep: bool,
}

/// What a walk looks for.
pub struct Options {
    /// What is left out.
    pub filter: Filter,
    /// Hash the content of regular files.
    pub hashes: bool,
    /// Hashes that need no reading.
    pub known: Option<Arc<dyn Hashes>>,
}

/// One walk, shared by its threads.
pub struct Walk<'a> {
    root: &'a Root,
    lens: Lens<'a>,
    sink: &'a dyn Sink,
    todo: Mutex<Todo>,
    more: Condvar,
    handles: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Todo {
    waiting: Vec<Task>,
    busy: usize,
    idle: usize,
    walkers: usize,
}

struct Task {
    /// None for the root itself.
    parent: Option<Arc<Dir>>,
    name: Box<[u8]>,
    /// The directories in it are walked, too.
    deep: bool,
}

impl Task {
    fn new(start: &Start, handles: &Arc<AtomicUsize>) -> Self {
        let (dir, name) = beneath::split(&start.path);
        let parent = (!start.path.is_empty()).then(|| {
            Arc::new(Dir {
                path: dir.to_vec(),
                fd: None,
                handles: Arc::clone(handles),
            })
        });
        Self {
            parent,
            name: name.into(),
            deep: start.deep,
        }
    }
}

/// A directory whose children wait.
struct Dir {
    path: Vec<u8>,
    fd: Option<OwnedFd>,
    handles: Arc<AtomicUsize>,
}

impl Drop for Dir {
    fn drop(&mut self) {
        if self.fd.take().is_some() {
            self.handles.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// What a thread keeps from directory to directory.
#[derive(Default)]
struct Scratch {
    found: Found,
    space: Space,
    dirs: Vec<Box<[u8]>>,
}

/// A directory while it is read.
struct Visit<'a> {
    dir: &'a Arc<Dir>,
    deep: bool,
    grow: &'a dyn Fn(),
    flags: u8,
    errno: i32,
    stopped: bool,
}

impl<'a> Walk<'a> {
    /// A walk of everything below `root`. It ends early when `stop` is set and `wake` called.
    pub fn new(
        root: &'a Root,
        options: &'a Options,
        sink: &'a dyn Sink,
        profile: &'a Profile,
        stop: &'a AtomicBool,
    ) -> Self {
        let whole = Start {
            path: Vec::new(),
            deep: true,
        };
        Self::at(vec![whole], root, options, sink, profile, stop)
    }

    /// A walk that begins at these directories beneath `root`; the first is taken first.
    pub fn at(
        starts: Vec<Start>,
        root: &'a Root,
        options: &'a Options,
        sink: &'a dyn Sink,
        profile: &'a Profile,
        stop: &'a AtomicBool,
    ) -> Self {
        let handles = Arc::default();
        let waiting = starts.into_iter().rev().map(|start| Task::new(&start, &handles));
        Self {
            root,
            lens: Lens { options, profile, stop },
            sink,
            todo: Mutex::new(Todo {
                waiting: waiting.collect(),
                walkers: 1,
                ..Todo::default()
            }),
            more: Condvar::new(),
            handles,
        }
    }

    /// Takes part in the walk; every thread of it runs this. Returns when nothing is left or it was stopped. `grow` is
    /// called when there may be work for one more.
    pub fn run(&self, grow: impl Fn()) {
        let mut scratch = Scratch::default();
        while let Some(task) = self.lens.profile.time(Stage::Idle, || self.take()) {
            let _done = Busy(self);
            grow();
            self.lens
                .profile
                .time(Stage::Walk, || self.visit(&task, &mut scratch, &grow));
        }
    }

    /// Whether more directories wait than walkers have nothing to do, and one more may be started; it then counts as one.
    pub fn is_short_handed(&self, walkers_max: usize) -> bool {
        let mut todo = lock(&self.todo);
        let short = todo.waiting.len() > todo.idle && todo.walkers < walkers_max;
        todo.walkers += usize::from(short);
        short
    }

    fn take(&self) -> Option<Task> {
        let mut todo = lock(&self.todo);
        loop {
            if self.lens.stop.load(Ordering::Relaxed) {
                return None;
            }
            if let Some(task) = todo.waiting.pop() {
                todo.busy += 1;
                return Some(task);
            }
            if todo.busy == 0 {
                return None;
            }
            todo.idle += 1;
            todo = self.more.wait(todo).unwrap_or_else(std::sync::PoisonError::into_inner);
            todo.idle -= 1;
        }
    }

    fn open(&self, task: &Task, path: &[u8]) -> io::Result<OwnedFd> {
        match task.parent.as_deref() {
            Some(Dir { fd: Some(fd), .. }) => beneath::open_dir_at(fd, &task.name),
            // A handle of its own: reading a directory moves the handle's position.
            None => beneath::open_dir_at(self.root.fd(), b"."),
            Some(_) => self.root.open_dir(path),
        }
    }

    fn visit(&self, task: &Task, scratch: &mut Scratch, grow: &dyn Fn()) {
        let mut path = Vec::new();
        if let Some(parent) = &task.parent {
            join(&mut path, &parent.path, &task.name);
        }
        scratch.found.clear();
        let fd = match self.open(task, &path) {
            Ok(fd) => fd,
            Err(e) => {
                self.root_entry(task, scratch);
                self.sink.part(&Part {
                    path: &path,
                    flags: list::FIRST | list::LAST | list::INCOMPLETE,
                    errno: errno_of(&e),
                    found: &scratch.found,
                });
                return;
            }
        };
        let keep = self.handles.fetch_add(1, Ordering::Relaxed) < beneath::at_most(HANDLES_MAX);
        let (kept, passing) = if keep { (Some(fd), None) } else { (None, Some(fd)) };
        if !keep {
            self.handles.fetch_sub(1, Ordering::Relaxed);
        }
        let dir = Arc::new(Dir {
            path,
            fd: kept,
            handles: Arc::clone(&self.handles),
        });
        if let Some(fd) = dir.fd.as_ref().or(passing.as_ref()) {
            self.sink.enter(&dir.path, fd.as_fd());
            self.root_entry(task, scratch);
            self.read(fd, &dir, task.deep, scratch, grow);
        }
    }

    /// The root's own entry, the first of the first chunk.
    fn root_entry(&self, task: &Task, scratch: &mut Scratch) {
        if task.parent.is_none() {
            let meta = beneath::stat(self.root.fd()).ok();
            scratch.found.push(meta, b"", &Content::of(list::DIRECTORY));
        }
    }

    fn read(&self, fd: &OwnedFd, dir: &Arc<Dir>, deep: bool, scratch: &mut Scratch, grow: &dyn Fn()) {
        let mut visit = Visit {
            dir,
            deep,
            grow,
            flags: list::FIRST,
            errno: 0,
            stopped: false,
        };
        let read = beneath::each_name(fd, |name| {
            if visit.stopped {
                return;
            }
            self.look(fd, name, &mut visit, scratch);
            if scratch.found.is_full() {
                self.flush(&mut visit, scratch, 0);
            }
        });
        if let Err(e) = read {
            visit.errno = errno_of(&e);
        }
        self.flush(&mut visit, scratch, list::LAST);
    }

    /// Adds the entry `name` of a directory, unless it is excluded, one of our own files or gone already.
    fn look(&self, fd: &OwnedFd, name: &[u8], visit: &mut Visit<'_>, scratch: &mut Scratch) {
        if !list::is_component(name) || visit.dir.path.len() + 1 + name.len() > list::PATH_MAX {
            visit.errno = Errno::NAMETOOLONG.raw_os_error();
            return;
        }
        let path = &visit.dir.path;
        let Seen::There(kind, meta) = self.lens.look(fd, path, name, &mut scratch.space) else {
            return;
        };
        let large = meta.is_some_and(|m| m.kind == list::REGULAR && m.size >= HASH_ALONE);
        if large && self.lens.options.hashes {
            self.flush(visit, scratch, 0);
        }
        let content = self.lens.content(fd, path, name, (kind, meta), &mut scratch.space);
        if let Some(content) = content {
            scratch.found.push(meta, name, &content);
        }
        if kind == list::DIRECTORY && visit.deep {
            scratch.dirs.push(name.into());
        }
    }

    /// Hands out what was found since the last part, then lets the directories among it be walked.
    fn flush(&self, visit: &mut Visit<'_>, scratch: &mut Scratch, last: u8) {
        let incomplete = if last != 0 && visit.errno != 0 {
            list::INCOMPLETE
        } else {
            0
        };
        if last == 0 && scratch.found.is_empty() || visit.stopped {
            return;
        }
        visit.stopped = !self.sink.part(&Part {
            path: &visit.dir.path,
            flags: visit.flags | last | incomplete,
            errno: if incomplete != 0 { visit.errno } else { 0 },
            found: &scratch.found,
        });
        visit.flags = 0;
        scratch.found.clear();
        if scratch.dirs.is_empty() {
            return;
        }
        let mut todo = lock(&self.todo);
        // The one found first is taken first.
        todo.waiting.extend(scratch.dirs.drain(..).rev().map(|name| Task {
            parent: Some(Arc::clone(visit.dir)),
            name,
            deep: true,
        }));
        if todo.idle > 0 {
            self.more.notify_all();
        }
        drop(todo);
        (visit.grow)();
    }
}

/// Takes part in a walk of at most so many threads, and has others do so while directories wait.
pub fn join_in<'s>(walk: &'s Walk<'s>, threads: usize, scope: &'s Scope<'s, '_>) {
    walk.run(|| {
        if walk.is_short_handed(threads) {
            let builder = std::thread::Builder::new().name("walk".to_owned()).stack_size(STACK);
            // Fewer threads do it, too.
            let _ = builder.spawn_scoped(scope, landlock::carry(move || join_in(walk, threads, scope)));
        }
    });
}

/// A directory is being walked until this is dropped, in a panic too: the others must not wait for ever.
struct Busy<'a, 'w>(&'a Walk<'w>);

impl Drop for Busy<'_, '_> {
    fn drop(&mut self) {
        let mut todo = lock(&self.0.todo);
        todo.busy -= 1;
        if todo.busy == 0 && todo.waiting.is_empty() || self.0.lens.stop.load(Ordering::Relaxed) {
            self.0.more.notify_all();
        }
    }
}

fn join(out: &mut Vec<u8>, dir: &[u8], name: &[u8]) {
    out.clear();
    out.extend_from_slice(dir);
    if !dir.is_empty() {
        out.push(b'/');
    }
    out.extend_from_slice(name);
}

fn errno_of(e: &io::Error) -> i32 {
    e.raw_os_error().unwrap_or_else(|| Errno::IO.raw_os_error())
}

#[cfg(test)]
mod tests;
