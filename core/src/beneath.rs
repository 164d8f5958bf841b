//! Every operation on a name below a root, by held directory handle.
//!
//! Nothing else in the crate joins or opens a path that a peer named. A directory is reached from the root's handle with
//! `openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS)`, or one component at a time with O_NOFOLLOW
//! where the kernel has no openat2 or a sandbox refuses it. Everything else takes such a handle and *one* component,
//! which callers have checked with `list::is_component`; so no operation can leave the root, whatever is flipped to a
//! symlink meanwhile. Only the root's own path, which the user chose, is resolved with its symlinks (`given`).

mod given;
mod handles;
mod root;

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Mutex;

use rustix::fs::{Access, AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

pub use given::{Given, given};
pub use handles::{Handles, at_most};
pub use root::{Root, use_openat2};

/// Bytes read at a time to be hashed.
const STRETCH: usize = 1 << 20;

/// What `lstat` says, in one shape on every platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The entry type of `list`: DIRECTORY, REGULAR, SYMLINK or OTHER.
    pub kind: u8,
    /// Permission bits, 07777.
    pub mode: u16,
    /// Bytes.
    pub size: u64,
    /// Modification time, seconds.
    pub mtime_s: i64,
    /// Modification time, nanoseconds.
    pub mtime_ns: u32,
    /// Change time, seconds and nanoseconds.
    pub ctime: (i64, u32),
    /// Device and inode.
    pub id: (u64, u64),
    /// Names.
    pub links: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Meta {
    #[allow(clippy::unnecessary_cast, reason = "the fields' widths differ between platforms")]
    fn new(st: &Stat) -> Self {
        Self {
            kind: match FileType::from_raw_mode(st.st_mode) {
                FileType::Directory => crate::list::DIRECTORY,
                FileType::RegularFile => crate::list::REGULAR,
                FileType::Symlink => crate::list::SYMLINK,
                _ => crate::list::OTHER,
            },
            mode: (st.st_mode & 0o7777) as u16,
            size: st.st_size as u64,
            mtime_s: st.st_mtime as i64,
            mtime_ns: st.st_mtime_nsec as u32,
            ctime: (st.st_ctime as i64, st.st_ctime_nsec as u32),
            id: (st.st_dev as u64, st.st_ino as u64),
            links: st.st_nlink as u64,
            uid: st.st_uid,
            gid: st.st_gid,
        }
    }
}

fn dir_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// Opens the directory `name` in `dir`; a symlink is refused (ENOTDIR or ELOOP).
pub fn open_dir_at(dir: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(dir, name, dir_flags(), Mode::empty())?)
}

/// Opens the directory `dir` once more, with a position and an error state of its own.
pub fn open_again(dir: impl AsFd) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(dir, ".", dir_flags(), Mode::empty())?)
}

/// Opens the regular file `name` in `dir` for reading. Never blocks on a fifo; a device is not opened twice: what is
/// not a regular file by `fstat` is refused with EINVAL.
pub fn open_read_at(dir: impl AsFd, name: &[u8]) -> io::Result<(OwnedFd, Meta)> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let fd = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    let meta = stat(&fd)?;
    if meta.kind != crate::list::REGULAR {
        return Err(Errno::INVAL.into());
    }
    Ok((fd, meta))
}

/// Creates `name` in `dir`, which must not exist, for its owner alone. The handle only writes: reading would cost a
/// confined thread a second look at the path (see `landlock`).
pub fn create_at(dir: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    create(dir, name, OFlags::WRONLY)
}

/// Creates `name` in `dir` as `create_at` does; what was written can be read again.
pub fn create_readable_at(dir: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    create(dir, name, OFlags::RDWR)
}

fn create(dir: impl AsFd, name: &[u8], access: OFlags) -> io::Result<OwnedFd> {
    let flags = access | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?)
}

/// Opens the regular file `name` in `dir` for reading and writing (a partial of ours). What others may have put there is
/// refused with EINVAL: a file that is not ours, or that has another name as well.
pub fn open_write_at(dir: impl AsFd, name: &[u8]) -> io::Result<(OwnedFd, Meta)> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    let st = rustix::fs::fstat(&fd)?;
    let meta = Meta::new(&st);
    if meta.kind != crate::list::REGULAR || meta.links != 1 || st.st_uid != rustix::process::geteuid().as_raw() {
        return Err(Errno::INVAL.into());
    }
    Ok((fd, meta))
}

/// What a modification time (seconds, nanoseconds) becomes when the file system of `dir` stores it. Leaves no trace, and
/// fails where that is impossible.
#[cfg(target_os = "linux")]
pub fn stored_time(dir: impl AsFd, (s, ns): (i64, u32)) -> io::Result<(i64, u32)> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, c".", flags, Mode::RUSR | Mode::WUSR)?;
    set_mtime(&fd, s, ns)?;
    let meta = stat(&fd)?;
    Ok((meta.mtime_s, meta.mtime_ns))
}

/// Elsewhere that is impossible.
#[cfg(not(target_os = "linux"))]
pub fn stored_time(_dir: impl AsFd, _time: (i64, u32)) -> io::Result<(i64, u32)> {
    Err(io::ErrorKind::Unsupported.into())
}

/// `fstat`.
pub fn stat(fd: impl AsFd) -> io::Result<Meta> {
    Ok(Meta::new(&rustix::fs::fstat(fd)?))
}

/// `lstat` of `name` in `dir`.
pub fn stat_at(dir: impl AsFd, name: &[u8]) -> io::Result<Meta> {
    Ok(Meta::new(&rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?))
}

/// When the inode `ino` was made, seconds and nanoseconds, as long as it is what is named `name` in `dir`. None: another one
/// is, or the file system does not know.
#[cfg(target_os = "linux")]
pub fn born_at(dir: impl AsFd, name: &[u8], ino: u64) -> Option<(i64, u32)> {
    use rustix::fs::StatxFlags;
    let asked = StatxFlags::BTIME | StatxFlags::INO;
    let stx = rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, asked).ok()?;
    let known = stx.stx_mask & asked.bits() == asked.bits() && stx.stx_ino == ino;
    known.then_some((stx.stx_btime.tv_sec, stx.stx_btime.tv_nsec))
}

/// Other systems are not asked.
#[cfg(not(target_os = "linux"))]
pub fn born_at(_dir: impl AsFd, _name: &[u8], _ino: u64) -> Option<(i64, u32)> {
    None
}

/// The target of the symlink `name` in `dir`.
pub fn read_link_at(dir: impl AsFd, name: &[u8]) -> io::Result<Vec<u8>> {
    Ok(rustix::fs::readlinkat(dir, name, Vec::with_capacity(256))?.into_bytes())
}

/// Makes the directory `name` in `dir`, open to its owner alone.
pub fn mkdir_at(dir: impl AsFd, name: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::mkdirat(dir, name, Mode::RWXU)?)
}

/// Makes the symlink `name` in `dir`; its target is stored as it is and never followed.
pub fn symlink_at(target: &[u8], dir: impl AsFd, name: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::symlinkat(target, dir, name)?)
}

/// Gives what is named `old` in `old_dir` the name `new` in `new_dir` as well, which must not exist; of a symlink, to
/// itself.
pub fn link_at(old_dir: impl AsFd, old: &[u8], new_dir: impl AsFd, new: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::linkat(old_dir, old, new_dir, new, AtFlags::empty())?)
}

/// Renames within `dir`, replacing what is not a directory.
pub fn rename_at(dir: impl AsFd, old: &[u8], new: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::renameat(&dir, old, &dir, new)?)
}

/// Renames within `dir`; fails with EEXIST when `new` is there. Without the system call it is checked first.
pub fn rename_new_at(dir: impl AsFd, old: &[u8], new: &[u8]) -> io::Result<()> {
    move_new_at(&dir, old, &dir, new)
}

/// Renames `old` in `from` to `new` in `to`; fails with EEXIST when that is there. Without the system call it is checked
/// first.
pub fn move_new_at(from: impl AsFd, old: &[u8], to: impl AsFd, new: &[u8]) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    match rustix::fs::renameat_with(&from, old, &to, new, rustix::fs::RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => {}
        other => return Ok(other?),
    }
    match stat_at(&to, new) {
        Ok(_) => Err(Errno::EXIST.into()),
        Err(_) => Ok(rustix::fs::renameat(from, old, to, new)?),
    }
}

/// Swaps two names in `dir` in one step where the file system can; else moves `b` to `aside` first.
/// Returns whether they were swapped (`b`'s old entry is now named `a`) or `b`'s old entry is named `aside`.
pub fn exchange_at(dir: impl AsFd, a: &[u8], b: &[u8], aside: &[u8]) -> io::Result<bool> {
    #[cfg(target_os = "linux")]
    match rustix::fs::renameat_with(&dir, a, &dir, b, rustix::fs::RenameFlags::EXCHANGE) {
        Err(Errno::INVAL | Errno::NOSYS) => {}
        other => {
            other?;
            return Ok(true);
        }
    }
    rename_new_at(&dir, b, aside)?;
    if let Err(e) = rename_new_at(&dir, a, b) {
        rename_new_at(&dir, aside, b)?;
        return Err(e);
    }
    Ok(false)
}

/// Removes what is not a directory.
pub fn unlink_at(dir: impl AsFd, name: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::unlinkat(dir, name, AtFlags::empty())?)
}

/// Removes an empty directory.
pub fn rmdir_at(dir: impl AsFd, name: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?)
}

/// Removes the directory `name` in `dir` with its files. One with a directory in it loses its files, and stays.
pub fn remove_flat_at(dir: impl AsFd, name: &[u8]) -> io::Result<()> {
    let fd = open_dir_at(&dir, name)?;
    let mut names = Vec::new();
    each_name(&fd, |name| names.push(name.to_vec()))?;
    for name in names {
        let _ = unlink_at(&fd, &name);
    }
    rmdir_at(dir, name)
}

/// Whether the mode of the open directory lets us make and remove names in it.
pub fn may_change(dir: impl AsFd) -> bool {
    let asked = Access::WRITE_OK | Access::EXEC_OK;
    rustix::fs::accessat(dir, c".", asked, AtFlags::EACCESS).is_ok()
}

/// Sets permission bits of an open file or directory.
pub fn chmod(fd: impl AsFd, mode: u16) -> io::Result<()> {
    Ok(rustix::fs::fchmod(fd, Mode::from_raw_mode(mode.into()))?)
}

/// Sets permission bits of `name` in `dir`, also of what its owner may not open; never through a symlink.
pub fn chmod_at(dir: impl AsFd, name: &[u8], mode: u16) -> io::Result<()> {
    let mode = Mode::from_raw_mode(mode.into());
    #[cfg(target_os = "linux")]
    {
        let handle = rustix::fs::openat(
            dir,
            name,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        if stat(&handle)?.kind == crate::list::SYMLINK {
            return Err(Errno::LOOP.into());
        }
        // fchmod refuses O_PATH handles; this link names the held inode, not a path.
        let link = format!("/proc/self/fd/{}", handle.as_raw_fd());
        Ok(rustix::fs::chmodat(CWD, link, mode, AtFlags::empty())?)
    }
    #[cfg(not(target_os = "linux"))]
    Ok(rustix::fs::chmodat(dir, name, mode, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn times(mtime_s: i64, mtime_ns: u32) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_OMIT as _,
        },
        last_modification: Timespec {
            tv_sec: mtime_s,
            tv_nsec: mtime_ns.into(),
        },
    }
}

/// Sets the modification time of an open file or directory.
pub fn set_mtime(fd: impl AsFd, mtime_s: i64, mtime_ns: u32) -> io::Result<()> {
    Ok(rustix::fs::futimens(fd, &times(mtime_s, mtime_ns))?)
}

/// Sets the modification time of `name` in `dir`, of a symlink itself.
pub fn set_mtime_at(dir: impl AsFd, name: &[u8], mtime_s: i64, mtime_ns: u32) -> io::Result<()> {
    Ok(rustix::fs::utimensat(
        dir,
        name,
        &times(mtime_s, mtime_ns),
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

/// Sets owner and group of an open file or directory, where given.
pub fn chown(fd: impl AsFd, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
    let (uid, gid) = owners(uid, gid);
    Ok(rustix::fs::fchown(fd, uid, gid)?)
}

/// Sets owner and group of `name` in `dir`, of a symlink itself, where given.
pub fn chown_at(dir: impl AsFd, name: &[u8], uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
    let (uid, gid) = owners(uid, gid);
    Ok(rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// `u32::MAX` means "leave it" to the kernel and is never an owner.
fn owners(uid: Option<u32>, gid: Option<u32>) -> (Option<Uid>, Option<Gid>) {
    let uid = uid.filter(|&id| id != u32::MAX).map(Uid::from_raw);
    let gid = gid.filter(|&id| id != u32::MAX).map(Gid::from_raw);
    (uid, gid)
}

/// Calls `each` with the name of every entry of `dir` but "." and "..", in the file system's order. `dir` must be a
/// handle of its own: its position moves.
pub fn each_name(dir: impl AsFd, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    each_entry(dir, |name, _| each(name))
}

/// The same, with whether it is a directory, where the file system says so by the way.
pub fn each_entry(dir: impl AsFd, mut each: impl FnMut(&[u8], Option<bool>)) -> io::Result<()> {
    let known = |kind: FileType| (kind != FileType::Unknown).then_some(kind == FileType::Directory);
    #[cfg(target_os = "linux")]
    {
        let mut space = [MaybeUninit::<u8>::uninit(); 32 << 10];
        let mut entries = rustix::fs::RawDir::new(dir, &mut space);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                each(name, known(entry.file_type()));
            }
        }
    }
    #[cfg(not(target_os = "linux"))]
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            each(name, known(entry.file_type()));
        }
    }
    Ok(())
}

/// Locks, also when a thread panicked while it held the lock: the data under our locks is valid between statements.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A path below the root, made of a directory's and a component. The only place that joins names; the result is for
/// `Root::open_dir`, for messages and for keys.
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(dir.len() + 1 + name.len());
    path.extend_from_slice(dir);
    if !dir.is_empty() && !name.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// A path's directory and last component.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// BLAKE3 of an open file, read in stretches; fails when `stopped` meanwhile.
pub fn hash_file(file: &OwnedFd, stopped: impl Fn() -> bool) -> io::Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    let mut buf = crate::buffer::filled(STRETCH);
    loop {
        match rustix::io::read(file, &mut buf[..]) {
            Ok(0) => break,
            Ok(n) => {
                hasher.update(&buf[..n]);
                if stopped() {
                    return Err(io::ErrorKind::Interrupted.into());
                }
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    crate::buffer::give(buf);
    Ok(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    pub(super) fn scratch(name: &str) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("syncctl-beneath-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("scratch");
        dir
    }

    #[test]
    fn nothing_is_opened_through_a_symlink() {
        let dir = scratch("links");
        std::fs::create_dir_all(dir.join("a/b")).expect("mkdir");
        symlink("/etc", dir.join("out")).expect("symlink");
        symlink("a", dir.join("in")).expect("symlink");
        let root = Root::open(dir.as_os_str().as_bytes()).expect("open");
        assert!(root.open_dir(b"a/b").is_ok());
        for path in [&b"out"[..], b"in", b"in/b", b"out/ssh", b"..", b"a/../..", b"/etc"] {
            assert!(root.open_dir(path).is_err(), "{path:?}");
            assert!(root::walk_beneath(root.fd(), path).is_err(), "{path:?}");
        }
        assert!(open_read_at(root.fd(), b"out").is_err());
        assert!(chmod_at(root.fd(), b"out", 0o777).is_err());
        std::fs::remove_dir_all(dir).expect("clean");
    }

    #[test]
    fn paths_longer_than_the_kernel_takes_are_opened_in_parts() {
        let dir = scratch("long");
        let root = Root::open(dir.as_os_str().as_bytes()).expect("open");
        let name = vec![b'n'; 200];
        let mut path = Vec::new();
        let mut fd = root.open_dir(b"").expect("root");
        for _ in 0..60 {
            mkdir_at(&fd, &name).expect("mkdir");
            fd = open_dir_at(&fd, &name).expect("open");
            path = join(&path, &name);
        }
        assert!(path.len() > 12_000);
        let again = root.open_dir(&path).expect("deep");
        assert_eq!(stat(&again).expect("stat").id, stat(&fd).expect("stat").id);
        let status = std::process::Command::new("rm").arg("-rf").arg(&dir).status();
        assert!(status.expect("rm").success());
    }

    #[test]
    fn exchange_swaps_or_moves_aside() {
        let dir = scratch("swap");
        std::fs::create_dir(dir.join("old")).expect("mkdir");
        std::fs::write(dir.join("temp"), "new").expect("write");
        let root = Root::open(dir.as_os_str().as_bytes()).expect("open");
        let swapped = exchange_at(root.fd(), b"temp", b"old", b"aside").expect("exchange");
        assert_eq!(std::fs::read(dir.join("old")).expect("read"), b"new");
        let was: &[u8] = if swapped { b"temp" } else { b"aside" };
        assert_eq!(stat_at(root.fd(), was).expect("stat").kind, crate::list::DIRECTORY);
        std::fs::remove_dir_all(dir).expect("clean");
    }
}
