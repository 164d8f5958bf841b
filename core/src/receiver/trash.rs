//! What is deleted or overwritten, kept in `.syncctl-trash/BATCH/` under the path it had: a rename or a link each.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, OnceLock};

use super::Shared;
use crate::beneath::{self, Handles, Root, lock, split};
use crate::list::{COMPONENT_MAX, DIRECTORY};
use crate::temp::TRASH;

/// Names that are tried for what was at one path more than once in a session.
const NAMES_MAX: u32 = 1_000;

/// One session's batch; made when the first entry goes there.
pub struct Trash {
    batch: Vec<u8>,
    held: OnceLock<Handles>,
    making: Mutex<()>,
}

impl Trash {
    /// `batch` is a plain name.
    pub fn new(batch: Vec<u8>) -> Self {
        Self {
            batch,
            held: OnceLock::new(),
            making: Mutex::default(),
        }
    }

    /// Whether it was made: so the root's time has changed.
    pub fn is_made(&self) -> bool {
        self.held.get().is_some()
    }

    /// Moves `name` of the directory `fd`, which stood at `path`, here.
    pub fn take(&self, shared: &Shared, fd: &OwnedFd, name: &[u8], path: &[u8]) -> io::Result<()> {
        let (dir, stood) = split(path);
        let to = self.dir(shared, dir)?;
        with_free_name(stood, |kept| {
            let rename = || beneath::move_new_at(fd, name, &*to, kept);
            match shared.in_dir(fd, rename) {
                Err(e) if e.raw_os_error() == Some(libc::EACCES) => opened_up(shared, fd, name, rename),
                other => other,
            }
        })
    }

    /// Gives `name` of the directory `fd`, which is at `path` and is about to be replaced, a second name here. False: the
    /// file system, or the kernel for somebody else's file, makes no such links.
    pub fn link(&self, shared: &Shared, fd: &OwnedFd, name: &[u8], path: &[u8]) -> io::Result<bool> {
        let (dir, stood) = split(path);
        let to = self.dir(shared, dir)?;
        match with_free_name(stood, |kept| beneath::link_at(fd, name, &*to, kept)) {
            Err(e) => match e.raw_os_error() {
                Some(libc::ENOENT) => Ok(true), // there is nothing to keep any more
                Some(libc::EPERM | libc::EMLINK | libc::EOPNOTSUPP | libc::ENOSYS) => Ok(false),
                _ => Err(e),
            },
            Ok(()) => Ok(true),
        }
    }

    /// The directory here that corresponds to `dir`.
    fn dir(&self, shared: &Shared, dir: &[u8]) -> io::Result<Arc<OwnedFd>> {
        let handles = self.handles(shared)?;
        match handles.dir(dir) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
            other => return other,
        }
        let ends = dir.iter().enumerate().filter_map(|(i, &b)| (b == b'/').then_some(i));
        for end in ends.chain([dir.len()]) {
            let (above, name) = split(&dir[..end]);
            make(&*handles.dir(above)?, name)?;
        }
        handles.dir(dir)
    }

    /// Whether what is there under its name, if anything, is a directory that is ours: nothing is put elsewhere.
    pub fn check(&self, shared: &Shared, root: &Root) -> io::Result<()> {
        match beneath::open_dir_at(root.fd(), TRASH) {
            Ok(trash) => ours(shared, &trash),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }

    fn handles(&self, shared: &Shared) -> io::Result<&Handles> {
        if let Some(held) = self.held.get() {
            return Ok(held);
        }
        let _one_at_a_time = lock(&self.making);
        if let Some(held) = self.held.get() {
            return Ok(held);
        }
        let root = shared.handles()?.dir(b"")?;
        shared.in_dir(&root, || make(&root, TRASH))?;
        let trash = beneath::open_dir_at(&*root, TRASH)?;
        ours(shared, &trash)?;
        make(&trash, &self.batch)?;
        let batch = beneath::open_dir_at(&trash, &self.batch)?;
        Ok(self.held.get_or_init(|| Handles::new(Root::from_fd(batch))))
    }
}

/// Not into what another user has put there to look at our files in.
fn ours(shared: &Shared, trash: &OwnedFd) -> io::Result<()> {
    if shared.privileged || beneath::stat(trash)?.uid == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    Err(io::Error::from_raw_os_error(libc::EPERM))
}

fn make(dir: &OwnedFd, name: &[u8]) -> io::Result<()> {
    match beneath::mkdir_at(dir, name) {
        Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}

/// A directory gets another parent only from who may write to it: its mode is changed for that moment.
fn opened_up(shared: &Shared, fd: &OwnedFd, name: &[u8], rename: impl Fn() -> io::Result<()>) -> io::Result<()> {
    let mode = beneath::stat_at(fd, name)?;
    if mode.kind != DIRECTORY {
        return Err(io::Error::from_raw_os_error(libc::EACCES));
    }
    beneath::chmod_at(fd, name, mode.mode | 0o700)?;
    let itself = beneath::open_dir_at(fd, name)?;
    let done = shared.in_dir(fd, rename);
    beneath::chmod(&itself, mode.mode)?;
    done
}

/// The second thing that was at one path is `NAME.~1~`, and so on, as rsync and cp name numbered backups.
fn with_free_name(name: &[u8], put: impl Fn(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut kept = name.to_vec();
    for count in 1..=NAMES_MAX {
        match put(&kept) {
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {}
            other => return other,
        }
        let tail = format!(".~{count}~");
        kept = [&name[..name.len().min(COMPONENT_MAX - tail.len())], tail.as_bytes()].concat();
    }
    Err(io::Error::from_raw_os_error(libc::EEXIST))
}
