//! A new directory of small files is filled under a hidden name, and takes its place by one rename with all of them in it.
//!
//! In there a file needs no temporary name of its own: a rename for each costs as much as all else that is done for a small
//! one. Nothing waits for the directory's name: directories with directories or links in them are made in their places.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::apply::{Wrong, ask_again, path_of, told};
use super::batch::{Staged, Written};
use super::dirs::Here;
use super::state::{Pending, Place};
use super::{Shared, commit, problem};
use crate::beneath::{self, lock, split};
use crate::failpoint::{self, Point};
use crate::list::{self, Chunk, Group, REGULAR};
use crate::piece::PIECE;
use crate::profile::Stage;
use crate::temp::Kind;

/// The rename of a directory has to save more renames than it is.
const FILES_MIN: usize = 4;
/// What is in a hidden directory when its agent is killed is sent again: not more than this.
const BYTES_MAX: u64 = 16 << 20;
/// Handles kept open of directories that are being filled, in one session; of others one is opened for each file.
const OPEN_MAX: usize = 64;

/// Such a directory, until it has its name.
pub struct Fresh {
    path: Box<[u8]>,
    hidden: Vec<u8>,
    /// Its number among the listed directories.
    number: u32,
    filling: Mutex<Filling>,
    /// It has its name: what still comes for it comes as for any other.
    named: AtomicBool,
}

#[derive(Default)]
struct Filling {
    made: bool,
    fd: Option<Arc<OwnedFd>>,
    /// Files that are wanted, those of them that are not settled, and those that were applied with their bytes.
    files: u64,
    left: u64,
    applied: Vec<u32>,
    bytes: u64,
    /// `Durable::failures` before the first of them.
    born: u64,
}

/// Whether a new directory, of which `group` is the listing, is one to build under a hidden name.
pub fn suits(chunk: &Chunk, group: &Group) -> bool {
    if group.flags & (list::FIRST | list::LAST | list::PARTIAL) != list::FIRST | list::LAST {
        return false;
    }
    let (mut files, mut bytes) = (0, 0);
    for i in group.start..group.start + group.entries {
        let entry = chunk.entry(i);
        match entry.kind {
            // What has other names elsewhere, or had another one, is not to wait for this directory's.
            REGULAR if entry.size <= PIECE as u64 && chunk.link_of(i).is_none() && entry.target.is_empty() => {
                files += 1;
                bytes += entry.size;
            }
            list::OTHER | list::UNREADABLE => {}
            _ => return false,
        }
    }
    files >= FILES_MIN && bytes <= BYTES_MAX
}

impl Fresh {
    /// Directory `number`, at `path`, of which `files` files are wanted. Nothing is made before the first of them is here.
    pub fn new(shared: &Shared, path: &[u8], number: u32, files: u64) -> Self {
        Self {
            path: path.into(),
            hidden: shared.namer.name(Kind::Fresh, split(path).1),
            number,
            filling: Mutex::new(Filling {
                files,
                left: files,
                born: u64::MAX,
                ..Filling::default()
            }),
            named: AtomicBool::new(false),
        }
    }

    /// Whether it has its name.
    pub fn is_named(&self) -> bool {
        self.named.load(Ordering::Acquire)
    }

    /// Its handle; it is made when it is not there yet.
    pub fn dir(&self, shared: &Shared) -> io::Result<Arc<OwnedFd>> {
        let mut filling = lock(&self.filling);
        if let Some(fd) = &filling.fd {
            return Ok(Arc::clone(fd));
        }
        let parent = shared.handles()?.dir(split(&self.path).0)?;
        if !filling.made {
            shared.in_dir(&parent, || beneath::mkdir_at(&*parent, &self.hidden))?;
            filling.made = true;
        }
        let fd = Arc::new(beneath::open_dir_at(&*parent, &self.hidden)?);
        if shared.fresh_open.fetch_add(1, Ordering::Relaxed) < beneath::at_most(OPEN_MAX) as u64 {
            filling.fd = Some(Arc::clone(&fd));
        } else {
            shared.fresh_open.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(fd)
    }

    /// Entry `i`, a file of so many bytes, is in it; `born` is `Durable::failures` before it was begun.
    pub fn applied(&self, i: u32, bytes: u64, born: u64) {
        let mut filling = lock(&self.filling);
        filling.applied.push(i);
        filling.bytes += bytes;
        filling.born = filling.born.min(born);
    }

    /// A file is in it, or will not come. How many files are settled by that: none before the last one, then all, and the
    /// directory has its name; or none as yet, and it gets it with its batch.
    pub fn settle(self: &Arc<Self>, shared: &Shared, pending: &Arc<Pending>) -> u64 {
        let mut filling = lock(&self.filling);
        filling.left -= 1;
        if filling.left > 0 {
            return 0;
        }
        let (files, bytes, born) = (filling.files, filling.bytes, filling.born);
        let empty = filling.applied.is_empty();
        drop(filling);
        if shared.durable.is_off() || empty {
            if self.place(shared) {
                self.count(shared);
            }
            return files;
        }
        let pending = Arc::clone(pending);
        let what = Written::Fresh(Arc::clone(self), files, bytes);
        shared
            .queue
            .stage(Staged { pending, what, born }, shared.durable.mode());
        0
    }

    /// Gives it its name. False: it cannot have it, which was told.
    pub fn place(&self, shared: &Shared) -> bool {
        let mut filling = lock(&self.filling);
        let publish = || self.publish(shared, &mut filling);
        let done = shared.profile.time(Stage::Rename, publish);
        failpoint::hit(Point::AfterRename);
        if let Err(e) = &done {
            let code = match e.raw_os_error() {
                Some(libc::EEXIST | libc::ENOTEMPTY | libc::ENOTDIR) => problem::CHANGED_HERE,
                _ => problem::WRITE,
            };
            shared.trouble(code, &self.path, e);
            lock(&shared.dirs).list[self.number as usize].here = Here::Blocked;
        }
        done.is_ok()
    }

    /// Its files are what they are to be.
    pub fn count(&self, shared: &Shared) {
        let filling = lock(&self.filling);
        commit::count(shared, filling.bytes, filling.applied.len() as u64, true);
    }

    /// What was written in it is not to be trusted: it goes, and has to come again.
    pub fn again(&self, shared: &Shared, pending: &Arc<Pending>, (code, errno): Wrong) {
        let mut filling = lock(&self.filling);
        self.discard(shared, &mut filling);
        (filling.bytes, filling.born) = (0, u64::MAX);
        for i in std::mem::take(&mut filling.applied) {
            if ask_again(shared, pending, i, Place::Absent) {
                filling.left += 1;
            } else {
                shared
                    .out
                    .problem(&shared.counters, code, errno, &path_of(shared, pending, i));
            }
        }
        let (left, files) = (filling.left, filling.files);
        drop(filling);
        if left == 0 {
            self.place(shared);
            told(shared, pending, files);
            shared.queue.resolved(files);
        }
    }

    /// The entries that are in it, of which each goes its own way from here on.
    pub fn take_applied(&self) -> Vec<u32> {
        std::mem::take(&mut lock(&self.filling).applied)
    }

    fn discard(&self, shared: &Shared, filling: &mut Filling) {
        if filling.fd.take().is_some() {
            shared.fresh_open.fetch_sub(1, Ordering::Relaxed);
        }
        if std::mem::take(&mut filling.made)
            && let Ok(parent) = shared.handles().and_then(|h| h.dir(split(&self.path).0))
        {
            let _ = beneath::remove_flat_at(&*parent, &self.hidden);
        }
    }

    /// Gives it its name; when that is taken, what was made goes.
    fn publish(&self, shared: &Shared, filling: &mut Filling) -> io::Result<()> {
        if filling.fd.take().is_some() {
            shared.fresh_open.fetch_sub(1, Ordering::Relaxed);
        }
        let (parent, name) = split(&self.path);
        let parent = shared.handles()?.dir(parent)?;
        let made = std::mem::take(&mut filling.made);
        let result = shared.in_dir(&parent, || match made {
            true => beneath::rename_new_at(&*parent, &self.hidden, name),
            false => beneath::mkdir_at(&*parent, name),
        });
        if result.is_err() && made {
            let _ = beneath::remove_flat_at(&*parent, &self.hidden);
        }
        result?;
        self.named.store(true, Ordering::Release);
        shared.durable.restructured(&parent)
    }

    /// The session ended early: the files that are here are whole, and stay, when they are on disk.
    pub fn keep(&self, shared: &Shared) {
        let mut filling = lock(&self.filling);
        if !filling.made {
            return;
        }
        if !shared.durable.is_off() && shared.durable.sync().is_err() {
            return self.discard(shared, &mut filling);
        }
        // What cannot be kept was removed, and is sent again.
        let _ = self.publish(shared, &mut filling);
    }
}
