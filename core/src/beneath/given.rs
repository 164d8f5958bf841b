//! A root's own path, as the user gave it: the only one in which symlinks are followed.

use std::io;
use std::os::fd::OwnedFd;

use super::Root;

/// What is at such a path.
pub enum Given {
    /// A directory.
    Directory(Root),
    /// A regular file: the directory that it is in, and its name there.
    File(Root, Vec<u8>),
    /// Nothing, in a directory that exists: that, and the name to make there.
    Missing(Root, Vec<u8>),
    /// Something else.
    Other,
}

/// Finds what is at `path`. A symlink on the way is followed when it is of this user or of root: somebody else's may lead
/// elsewhere a moment later (ELOOP). That is rsync's `open_no_attacker_symlinks`, of 3.5.
#[cfg(target_os = "linux")]
pub fn given(path: &[u8]) -> io::Result<Given> {
    use rustix::fs::{CWD, Mode, ResolveFlags};
    // Mostly it was resolved before: one call then.
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(CWD, path, super::dir_flags(), Mode::empty(), resolve) {
        Ok(fd) => Ok(Given::Directory(Root::from_fd(fd))),
        Err(_) => walk(path),
    }
}

/// Links that one path may lead through, as in the kernel.
#[cfg(target_os = "linux")]
const LINKS_MAX: u32 = 40;

#[cfg(target_os = "linux")]
fn walk(path: &[u8]) -> io::Result<Given> {
    use rustix::fs::{CWD, FileType, Mode, OFlags};
    use rustix::io::Errno;

    let handle = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |dir: &OwnedFd, name: &[u8]| rustix::fs::openat(dir, name, handle, Mode::empty());
    let begin = |path: &[u8]| {
        let top = if path.first() == Some(&b'/') { c"/" } else { c"." };
        rustix::fs::openat(CWD, top, handle, Mode::empty())
    };
    let readable = |dir: &OwnedFd| rustix::fs::openat(dir, c".", super::dir_flags(), Mode::empty()).map(Root::from_fd);
    let components = |path: &[u8]| -> Vec<Vec<u8>> {
        let parts = path
            .split(|&b| b == b'/')
            .filter(|name| !name.is_empty() && name != b".");
        parts.rev().map(<[u8]>::to_vec).collect()
    };
    let own = rustix::process::geteuid().as_raw();
    let mut dir = begin(path)?;
    let mut rest = components(path);
    let mut links = 0;
    while let Some(name) = rest.pop() {
        let fd = match open(&dir, &name) {
            Err(Errno::NOENT) if rest.is_empty() => return Ok(Given::Missing(readable(&dir)?, name)),
            found => found?,
        };
        let st = rustix::fs::fstat(&fd)?;
        match FileType::from_raw_mode(st.st_mode) {
            FileType::Symlink => {
                links += 1;
                if links > LINKS_MAX || st.st_uid != 0 && st.st_uid != own {
                    return Err(Errno::LOOP.into());
                }
                let target = rustix::fs::readlinkat(&fd, c"", Vec::with_capacity(256))?.into_bytes();
                if target.first() == Some(&b'/') {
                    dir = begin(&target)?;
                }
                rest.append(&mut components(&target));
            }
            FileType::RegularFile if rest.is_empty() => return Ok(Given::File(readable(&dir)?, name)),
            FileType::Directory => dir = fd,
            _ if rest.is_empty() => return Ok(Given::Other),
            _ => return Err(Errno::NOTDIR.into()),
        }
    }
    Ok(Given::Directory(readable(&dir)?))
}

/// Finds what is at `path`.
#[cfg(not(target_os = "linux"))]
pub fn given(path: &[u8]) -> io::Result<Given> {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    use rustix::fs::Mode;

    let flags = super::dir_flags() & !rustix::fs::OFlags::NOFOLLOW;
    let open = |path: &[u8]| -> io::Result<OwnedFd> { Ok(rustix::fs::open(path, flags, Mode::empty())?) };
    let within = |path: &Path| -> io::Result<(Root, Vec<u8>)> {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let fd = open(if dir.as_os_str().is_empty() {
            b"."
        } else {
            dir.as_os_str().as_bytes()
        })?;
        Ok((Root::from_fd(fd), name.as_bytes().to_vec()))
    };
    let at = Path::new(OsStr::from_bytes(path));
    match std::fs::metadata(at) {
        Ok(meta) if meta.is_dir() => Ok(Given::Directory(Root::from_fd(open(path)?))),
        Ok(meta) if meta.is_file() => within(&std::fs::canonicalize(at)?).map(|(dir, name)| Given::File(dir, name)),
        Ok(_) => Ok(Given::Other),
        Err(e) if e.kind() == io::ErrorKind::NotFound => within(at).map(|(dir, name)| Given::Missing(dir, name)),
        Err(e) => Err(e),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{lchown, symlink};
    use std::path::Path;

    use super::super::tests::scratch;
    use super::*;

    fn at(path: &Path) -> io::Result<Given> {
        given(path.as_os_str().as_bytes())
    }

    #[test]
    fn ones_own_links_are_followed() {
        let dir = scratch("given");
        std::fs::create_dir_all(dir.join("a/b")).expect("mkdir");
        std::fs::write(dir.join("a/f"), "x").expect("write");
        for (target, link) in [
            ("a", "to-a"),
            ("b/..", "a/round"),
            ("to-a/f", "to-f"),
            ("to-a/new", "to-new"),
            ("l", "l"),
        ] {
            symlink(target, dir.join(link)).expect("symlink");
        }
        symlink(dir.join("a"), dir.join("absolute")).expect("symlink");
        for path in ["a", "to-a", "to-a/round/round", "absolute/b", "a/b/../../to-a/"] {
            assert!(matches!(at(&dir.join(path)), Ok(Given::Directory(_))), "{path}");
        }
        assert!(matches!(at(&dir.join("to-f")), Ok(Given::File(_, name)) if name == b"f"));
        assert!(matches!(at(&dir.join("to-new")), Ok(Given::Missing(_, name)) if name == b"new"));
        assert!(matches!(at(Path::new("/dev/null")), Ok(Given::Other)));
        for (path, errno) in [("l", libc::ELOOP), ("a/f/x", libc::ENOTDIR), ("no/new", libc::ENOENT)] {
            let found = at(&dir.join(path)).err().and_then(|e| e.raw_os_error());
            assert_eq!(found, Some(errno), "{path}");
        }
        std::fs::remove_dir_all(dir).expect("clean");
    }

    #[test]
    fn another_users_links_are_not() {
        if !rustix::process::geteuid().is_root() {
            return println!("skipped: giving files away needs root");
        }
        let dir = scratch("theirs");
        std::fs::create_dir_all(dir.join("a/b")).expect("mkdir");
        symlink("a", dir.join("theirs")).expect("symlink");
        lchown(dir.join("theirs"), Some(65534), Some(65534)).expect("chown");
        for path in ["theirs", "theirs/b", "theirs/new"] {
            let found = at(&dir.join(path)).err().and_then(|e| e.raw_os_error());
            assert_eq!(found, Some(libc::ELOOP), "{path}");
        }
        std::fs::remove_dir_all(dir).expect("clean");
    }
}
