//! A new directory of small files is filled under a hidden name, and takes its place by one rename with all of them in it.
//!
//! In there a file needs no temporary name of its own: a rename for each costs as much as all else that is done for a small
//! one. Nothing waits for the directory's name: directories with directories or links in them are made in their places.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use super::dirs::Here;
use super::outbox::add;
use super::{Shared, problem};
use crate::beneath::{self, lock, split};
use crate::list::{self, Chunk, Group, REGULAR};
use crate::piece::PIECE;
use crate::profile::Stage;
use crate::temp::Kind;

/// The rename of a directory has to save more renames than it is.
const FILES_MIN: usize = 4;
/// What is in a hidden directory when its agent is killed is sent again: not more than this.
const BYTES_MAX: u64 = 16 << 20;
/// Handles kept open of directories that are being filled, in one session; of others one is opened for each file.
const OPEN_MAX: u64 = 64;

/// Such a directory, until it has its name.
pub struct Fresh {
    path: Box<[u8]>,
    hidden: Vec<u8>,
    /// Its number among the listed directories.
    number: u32,
    filling: Mutex<Filling>,
}

#[derive(Default)]
struct Filling {
    made: bool,
    fd: Option<Arc<OwnedFd>>,
    /// Files that are wanted, those of them that are not settled, and those that were applied with their bytes.
    files: u64,
    left: u64,
    applied: u64,
    bytes: u64,
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
                ..Filling::default()
            }),
        }
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
        if shared.fresh_open.fetch_add(1, Ordering::Relaxed) < OPEN_MAX {
            filling.fd = Some(Arc::clone(&fd));
        } else {
            shared.fresh_open.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(fd)
    }

    /// A file of so many bytes is in it.
    pub fn applied(&self, bytes: u64) {
        let mut filling = lock(&self.filling);
        filling.applied += 1;
        filling.bytes += bytes;
    }

    /// A file is in it, or will not come. How many files are settled by that: none before the last one, then all, and the
    /// directory has its name.
    pub fn settle(&self, shared: &Shared) -> u64 {
        let mut filling = lock(&self.filling);
        filling.left -= 1;
        if filling.left > 0 {
            return 0;
        }
        match shared
            .profile
            .time(Stage::Rename, || self.publish(shared, &mut filling))
        {
            Ok(()) => {
                add(&shared.counters.files, filling.applied);
                add(&shared.counters.bytes, filling.bytes);
                add(&shared.counters.created, filling.applied);
            }
            Err(e) => {
                let code = match e.raw_os_error() {
                    Some(libc::EEXIST | libc::ENOTEMPTY | libc::ENOTDIR) => problem::CHANGED_HERE,
                    _ => problem::WRITE,
                };
                shared.trouble(code, &self.path, &e);
                lock(&shared.dirs).list[self.number as usize].here = Here::Blocked;
            }
        }
        filling.files
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
        result
    }

    /// The session ended early: the files that are here are whole, and stay.
    pub fn keep(&self, shared: &Shared) {
        let mut filling = lock(&self.filling);
        if filling.made {
            // What cannot be kept was removed, and is sent again.
            let _ = self.publish(shared, &mut filling);
        }
    }
}
