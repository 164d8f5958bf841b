//! From a root to a directory below it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use super::{Given, given, open_dir_at};

/// The kernel takes paths below 4,096 bytes; longer ones are opened in parts.
const PART_MAX: usize = 4000;
/// How often a lookup that lost a race with a rename (EAGAIN) is tried before it goes component by component.
#[cfg(target_os = "linux")]
const OPENAT2_TRIES: u32 = 8;

/// Whether there is an openat2, as far as is known: old kernels have none, seccomp filters of some containers answer EPERM.
static OPENAT2: AtomicBool = AtomicBool::new(cfg!(target_os = "linux"));

/// Whether openat2 is tried before a component walk: for tests of the latter. What it was before.
pub fn use_openat2(on: bool) -> bool {
    OPENAT2.swap(on, Ordering::Relaxed)
}

/// The held root of a tree.
pub struct Root {
    fd: OwnedFd,
}

impl Root {
    /// Opens a root by the path that the user gave; see `given`. Fails with ENOTDIR when it leads to no directory.
    pub fn open(path: &[u8]) -> io::Result<Self> {
        match given(path)? {
            Given::Directory(root) => Ok(root),
            Given::Missing(..) => Err(Errno::NOENT.into()),
            Given::File(..) | Given::Other => Err(Errno::NOTDIR.into()),
        }
    }

    /// A root by its open directory.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// The root's handle.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The root by another handle.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.fd.try_clone().map(Self::from_fd)
    }

    /// Opens the directory `path` beneath the root; "" is the root itself. The handle has a position of its own: who reads
    /// the directory by it reads all of it.
    pub fn open_dir(&self, path: &[u8]) -> io::Result<OwnedFd> {
        if path.is_empty() {
            return super::open_again(self.fd());
        }
        open_from(self.fd(), path)
    }
}

/// Opens the directory `path` beneath another.
pub(super) fn open_from(dir: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    let mut rest = path;
    let mut from: Option<OwnedFd> = None;
    while !rest.is_empty() {
        let (part, behind) = split_part(rest)?;
        let base = from.as_ref().map_or(dir, |fd| fd.as_fd());
        from = Some(open_beneath(base, part)?);
        rest = behind;
    }
    from.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// The longest leading part of `path` that one system call takes, and what is behind it.
fn split_part(path: &[u8]) -> io::Result<(&[u8], &[u8])> {
    if path.len() <= PART_MAX {
        return Ok((path, b""));
    }
    match path[..PART_MAX].iter().rposition(|&b| b == b'/') {
        Some(at) => Ok((&path[..at], &path[at + 1..])),
        None => Err(Errno::NAMETOOLONG.into()),
    }
}

#[cfg(target_os = "linux")]
fn open_beneath(base: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, ResolveFlags};

    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..OPENAT2_TRIES {
        if !OPENAT2.load(Ordering::Relaxed) {
            break;
        }
        match rustix::fs::openat2(base, path, super::dir_flags(), Mode::empty(), resolve) {
            Ok(fd) => return Ok(fd),
            Err(Errno::AGAIN) => {}
            Err(Errno::NOSYS | Errno::PERM) => OPENAT2.store(false, Ordering::Relaxed),
            Err(e) => return Err(e.into()),
        }
    }
    walk_beneath(base, path)
}

#[cfg(not(target_os = "linux"))]
fn open_beneath(base: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    walk_beneath(base, path)
}

/// One component at a time; each is refused when it is a symlink at the moment it is opened.
pub(super) fn walk_beneath(base: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    let mut held: Option<OwnedFd> = None;
    let mut rest = path;
    loop {
        let end = rest.iter().position(|&b| b == b'/');
        let component = &rest[..end.unwrap_or(rest.len())];
        if !crate::list::is_component(component) {
            return Err(Errno::INVAL.into());
        }
        let from = held.as_ref().map_or(base, |fd| fd.as_fd());
        let Some(end) = end else {
            return open_dir_at(from, component);
        };
        held = Some(pass_through(from, component)?);
        rest = &rest[end + 1..];
    }
}

/// A directory on the way: as for openat2 it has to be searchable, not readable. Landlock looks at what is opened, with
/// all that it is in, and so at the last one alone.
#[cfg(target_os = "linux")]
fn pass_through(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

#[cfg(not(target_os = "linux"))]
fn pass_through(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    open_dir_at(dir, name)
}
