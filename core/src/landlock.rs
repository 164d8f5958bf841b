//! Threads that can open nothing outside their session's root: Landlock, landlock(7).
//!
//! The second layer behind `beneath`: a mistake in a path, or a held directory that was moved out of the root, ends in
//! EACCES instead of a file elsewhere. It is no sandbox for code: memory and open handles are shared with all threads.
//!
//! `landlock_restrict_self` and PR_SET_NO_NEW_PRIVS, which it needs, hold for the calling thread and for threads that
//! this one starts, and for no other. So an engine's threads are started from unconfined ones, restrict themselves before
//! their first operation below the root, and end with their session. None of them forks, executes, or opens anything
//! that is not below the root; what does runs on the agent's own threads.

use std::io;
use std::os::fd::BorrowedFd;

/// What may be done below the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Files and directories are read.
    Read,
    /// They are read, written, made, renamed and removed.
    Write,
}

#[cfg(target_os = "linux")]
pub use kernel::{Confinement, abi, carry, is_confined};

#[cfg(not(target_os = "linux"))]
pub use elsewhere::{Confinement, abi, carry, is_confined};

#[cfg(target_os = "linux")]
mod kernel {
    use std::cell::Cell;
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    use std::sync::OnceLock;

    use rustix::fs::{Mode, OFlags};
    use rustix::io::Errno;

    use super::{Access, BorrowedFd, io};
    use crate::beneath;

    // linux/landlock.h. The first 13 rights are of ABI 1.
    const EXECUTE: u64 = 1 << 0;
    const WRITE_FILE: u64 = 1 << 1;
    const READ_FILE: u64 = 1 << 2;
    const READ_DIR: u64 = 1 << 3;
    const FIRST: u64 = (1 << 13) - 1;
    /// Renaming and linking into another directory. ABI 1 forbids that altogether, so it is of no use here.
    const REFER: u64 = 1 << 13;
    const TRUNCATE: u64 = 1 << 14;
    const IOCTL_DEV: u64 = 1 << 15;
    const ABI_MIN: u32 = 2;
    const ABI_TRUNCATE: u32 = 3;
    const ABI_IOCTL_DEV: u32 = 5;
    /// From this ABI on refusals are told to the audit log, and the probes of every session would fill it.
    const ABI_AUDIT: u32 = 7;
    const LOG_SAME_EXEC_OFF: u32 = 1 << 0;
    const CREATE_RULESET_VERSION: u32 = 1 << 0;
    const RULE_PATH_BENEATH: u32 = 1;

    /// `struct landlock_ruleset_attr` as of ABI 1; the kernel takes what it does not have for zero.
    #[repr(C)]
    struct RulesetAttr {
        handled_access_fs: u64,
    }

    /// `struct landlock_path_beneath_attr`.
    #[repr(C, packed)]
    struct PathBeneathAttr {
        allowed_access: u64,
        parent_fd: i32,
    }

    thread_local! {
        static CONFINED: Cell<bool> = const { Cell::new(false) };
    }

    /// Whether the calling thread is restricted.
    pub fn is_confined() -> bool {
        CONFINED.get()
    }

    /// Work for a new thread: it is as restricted as the thread that starts it, and so it knows.
    pub fn carry<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
        let confined = is_confined();
        move || {
            CONFINED.set(confined);
            work()
        }
    }

    /// The ABI of the kernel's Landlock, 2 or later; 0 where there is none, or where a thread that restricted itself
    /// was refused nothing. Tried once in a process, by a thread of its own.
    pub fn abi() -> u32 {
        static ABI: OnceLock<u32> = OnceLock::new();
        *ABI.get_or_init(|| {
            let found = version();
            let holds = move || {
                let rules = Rules::new(found, Access::Write)?;
                rules.restrict()?;
                is_refused()
            };
            let thread = || std::thread::Builder::new().name("landlock".to_owned()).spawn(holds);
            let proven =
                found >= ABI_MIN && open_top().is_ok() && thread().is_ok_and(|t| matches!(t.join(), Ok(Ok(true))));
            if proven { found } else { 0 }
        })
    }

    fn version() -> u32 {
        // SAFETY: with this flag the call takes no attributes and only returns a number.
        let version = unsafe {
            libc::syscall(
                libc::SYS_landlock_create_ruleset,
                std::ptr::null::<RulesetAttr>(),
                0usize,
                CREATE_RULESET_VERSION,
            )
        };
        u32::try_from(version).unwrap_or(0)
    }

    /// The probe: this is outside every root but itself, and everybody may open it.
    fn open_top() -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(c"/", flags, Mode::empty())
    }

    fn is_refused() -> io::Result<bool> {
        match open_top() {
            Ok(_) => Ok(false),
            Err(Errno::ACCESS) => Ok(true),
            Err(e) => Err(e.into()),
        }
    }

    fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(result)
    }

    /// A ruleset.
    struct Rules {
        fd: OwnedFd,
        handled: u64,
        abi: u32,
    }

    impl Rules {
        /// Handles all rights the kernel knows of, but for a writer's two to write to what exists. For each right that an
        /// open asks for the kernel climbs from the file to the root; a new file is judged by the right to make it, and
        /// `beneath` opens an existing one for writing only together with reading, which is handled: see `open_write_at`.
        fn new(abi: u32, access: Access) -> io::Result<Self> {
            let mut handled = FIRST | REFER;
            if abi >= ABI_TRUNCATE {
                handled |= TRUNCATE;
            }
            if abi >= ABI_IOCTL_DEV {
                handled |= IOCTL_DEV;
            }
            if access == Access::Write {
                handled &= !(WRITE_FILE | TRUNCATE);
            }
            let attr = RulesetAttr {
                handled_access_fs: handled,
            };
            // SAFETY: `attr` is valid for the size that is given, and only read during the call.
            let fd = checked(unsafe {
                libc::syscall(
                    libc::SYS_landlock_create_ruleset,
                    &raw const attr,
                    size_of_val(&attr),
                    0u32,
                )
            })?;
            // SAFETY: the call returned a new handle (close-on-exec), which is nobody else's.
            let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
            Ok(Self { fd, handled, abi })
        }

        fn allow(&self, root: BorrowedFd<'_>, access: Access) -> io::Result<()> {
            let allowed_access = match access {
                Access::Read => READ_FILE | READ_DIR,
                Access::Write => self.handled & !(EXECUTE | IOCTL_DEV),
            };
            let attr = PathBeneathAttr {
                allowed_access,
                parent_fd: root.as_raw_fd(),
            };
            // SAFETY: `attr` has the kernel's layout and both handles are open; it is only read during the call.
            checked(unsafe {
                libc::syscall(
                    libc::SYS_landlock_add_rule,
                    self.fd.as_raw_fd(),
                    RULE_PATH_BENEATH,
                    &raw const attr,
                    0u32,
                )
            })?;
            Ok(())
        }

        /// Restricts the calling thread until it ends.
        fn restrict(&self) -> io::Result<()> {
            // SAFETY: takes numbers only; it holds for the calling thread, which executes no other program.
            if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1u64, 0u64, 0u64, 0u64) } != 0 {
                return Err(io::Error::last_os_error());
            }
            let flags = if self.abi >= ABI_AUDIT { LOG_SAME_EXEC_OFF } else { 0 };
            // SAFETY: takes a handle, which is open, and a number.
            checked(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, self.fd.as_raw_fd(), flags) })?;
            CONFINED.set(true);
            Ok(())
        }
    }

    /// What the threads of one session may open.
    pub struct Confinement {
        rules: Option<Rules>,
        /// What the probe said: the kernel holds every thread to the ruleset itself, so one thread's word is good for all.
        proven: OnceLock<bool>,
    }

    impl Confinement {
        /// Nothing but what is below `root`. Where the kernel cannot do that, or the root is "/", it is no restriction.
        pub fn to(root: BorrowedFd<'_>, access: Access) -> io::Result<Self> {
            let abi = abi();
            let top = || -> io::Result<bool> { Ok(beneath::stat(root)?.id == beneath::stat(open_top()?)?.id) };
            if abi == 0 || top()? {
                return Ok(Self::none());
            }
            let rules = Rules::new(abi, access)?;
            rules.allow(root, access)?;
            Ok(Self {
                rules: Some(rules),
                proven: OnceLock::new(),
            })
        }

        /// No restriction.
        pub fn none() -> Self {
            Self {
                rules: None,
                proven: OnceLock::new(),
            }
        }

        /// Restricts the calling thread for as long as it lives. Fails, with EPERM when the kernel said yes and refused
        /// nothing: the thread is to end then.
        pub fn enter(&self) -> io::Result<()> {
            let Some(rules) = self.rules.as_ref().filter(|_| !is_confined()) else {
                return Ok(());
            };
            rules.restrict()?;
            let proven = match self.proven.get() {
                Some(proven) => *proven,
                None => {
                    let refused = is_refused()?;
                    *self.proven.get_or_init(|| refused)
                }
            };
            if proven { Ok(()) } else { Err(Errno::PERM.into()) }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use super::{Access, BorrowedFd, io};

    /// There is no such thing here.
    pub fn abi() -> u32 {
        0
    }

    /// No thread is restricted.
    pub fn is_confined() -> bool {
        false
    }

    /// The work as it is.
    pub fn carry<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
        work
    }

    /// No restriction.
    pub struct Confinement;

    impl Confinement {
        /// No restriction.
        pub fn to(_root: BorrowedFd<'_>, _access: Access) -> io::Result<Self> {
            Ok(Self)
        }

        /// No restriction.
        pub fn none() -> Self {
            Self
        }

        /// Does nothing.
        pub fn enter(&self) -> io::Result<()> {
            Ok(())
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::path::PathBuf;

    use super::*;
    use crate::beneath::{self, Root};

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("syncctl-landlock-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            for dir in ["root/a", "root/b", "second"] {
                fs::create_dir_all(path.join(dir)).expect("mkdir");
            }
            for file in ["root/a/f", "second/f", "outside"] {
                fs::write(path.join(file), "x").expect("write");
            }
            Self(path)
        }

        fn root(&self, name: &str) -> Root {
            Root::open(self.0.join(name).as_os_str().as_bytes()).expect("open")
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn refused<T>(result: io::Result<T>) -> bool {
        matches!(result, Err(e) if e.raw_os_error() == Some(libc::EACCES))
    }

    fn own() -> String {
        let link = fs::read_link("/proc/thread-self").expect("self");
        link.file_name().expect("a name").to_string_lossy().into_owned()
    }

    fn new_privs(task: &str) -> bool {
        let status = fs::read_to_string(format!("/proc/self/task/{task}/status")).expect("status");
        status.contains("NoNewPrivs:\t0")
    }

    fn confined<T: Send>(root: &Root, access: Access, work: impl FnOnce() -> T + Send) -> T {
        let confinement = Confinement::to(root.fd(), access).expect("ruleset");
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                confinement.enter().expect("confined");
                assert!(is_confined());
                work()
            });
            thread.join().expect("joined")
        })
    }

    #[test]
    fn a_writer_is_held_to_its_root_and_nobody_else_is() {
        if abi() == 0 {
            return println!("skipped: no Landlock");
        }
        let place = Place::new("write");
        let (root, second) = (place.root("root"), place.root("second"));
        let outside = || fs::read(place.0.join("outside"));
        confined(&root, Access::Write, || {
            assert!(refused(outside()) && refused(fs::read_dir("/proc").map(drop)));
            assert!(refused(beneath::open_read_at(second.fd(), b"f")));
            assert!(refused(beneath::open_write_at(second.fd(), b"f")));
            assert!(refused(beneath::create_at(second.fd(), b"new")));
            assert!(refused(beneath::unlink_at(second.fd(), b"f")));
            assert!(refused(beneath::mkdir_at(second.fd(), b"new")));
            let (a, b) = (root.open_dir(b"a").expect("a"), root.open_dir(b"b").expect("b"));
            assert!(beneath::move_new_at(&a, b"f", second.fd(), b"g").is_err());
            assert!(beneath::link_at(second.fd(), b"f", &a, b"g").is_err());
            beneath::move_new_at(&a, b"f", &b, b"g").expect("renamed into another directory");
            beneath::link_at(&b, b"g", &a, b"h").expect("linked into another directory");
            beneath::chmod_at(&a, b"h", 0o600).expect("chmod");
            beneath::mkdir_at(&a, b"d").expect("mkdir");
            beneath::symlink_at(b"/etc", &a, b"l").expect("symlink");
            let file = beneath::create_at(&b, b"i").expect("create");
            rustix::fs::ftruncate(&file, 0).expect("truncate");
            beneath::rmdir_at(&a, b"d").expect("rmdir");
        });
        // Nor after that: this thread, and those that it starts.
        assert!(!is_confined() && outside().is_ok());
        std::thread::scope(|scope| scope.spawn(|| assert!(outside().is_ok())).join().expect("joined"));
        let child = std::process::Command::new("cat").arg(place.0.join("outside")).output();
        assert_eq!(child.expect("a child").stdout, b"x");
    }

    #[test]
    fn a_reader_writes_nothing() {
        if abi() == 0 {
            return println!("skipped: no Landlock");
        }
        let place = Place::new("read");
        let root = place.root("root");
        confined(&root, Access::Read, || {
            let a = root.open_dir(b"a").expect("a");
            assert!(beneath::open_read_at(&a, b"f").is_ok());
            assert!(refused(beneath::open_write_at(&a, b"f")));
            assert!(refused(beneath::create_at(&a, b"new")));
            assert!(refused(beneath::unlink_at(&a, b"f")));
            assert!(refused(beneath::rename_at(&a, b"f", b"g")));
        });
    }

    #[test]
    fn a_directory_that_was_moved_out_is_left_alone() {
        if abi() == 0 {
            return println!("skipped: no Landlock");
        }
        let place = Place::new("moved");
        let root = place.root("root");
        let a = root.open_dir(b"a").expect("a");
        confined(&root, Access::Write, || {
            beneath::create_at(&a, b"new").expect("within");
            assert!(fs::rename(place.0.join("root/a"), place.0.join("second/moved")).is_err());
        });
        fs::rename(place.0.join("root/a"), place.0.join("second/moved")).expect("rename");
        confined(&root, Access::Write, || {
            assert!(refused(beneath::open_read_at(&a, b"f")));
            assert!(refused(beneath::create_at(&a, b"other")));
        });
        assert!(beneath::open_read_at(&a, b"f").is_ok());
    }

    #[test]
    fn what_a_confined_thread_starts_is_confined_and_knows() {
        if abi() == 0 {
            return println!("skipped: no Landlock");
        }
        let place = Place::new("carry");
        let root = place.root("root");
        let confinement = Confinement::to(root.fd(), Access::Write).expect("ruleset");
        std::thread::scope(|scope| {
            let work = || {
                confinement.enter().expect("confined");
                let inner = scope.spawn(carry(|| {
                    // No second layer: the kernel takes 16.
                    (0..32).for_each(|_| confinement.enter().expect("confined"));
                    refused(fs::read(place.0.join("outside"))) && is_confined()
                }));
                assert!(inner.join().expect("joined"));
            };
            scope.spawn(work).join().expect("joined");
        });
        assert!(!is_confined());
    }

    #[test]
    fn only_the_confined_thread_gives_up_privileges() {
        if abi() == 0 {
            return println!("skipped: no Landlock");
        }
        let before = new_privs(&own());
        let place = Place::new("privs");
        let root = place.root("root");
        let confinement = Confinement::to(root.fd(), Access::Read).expect("ruleset");
        let (tell, told) = std::sync::mpsc::channel();
        let (done, end) = std::sync::mpsc::channel::<()>();
        let inner = &confinement;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let task = own();
                inner.enter().expect("confined");
                tell.send(task).expect("sent");
                end.recv().expect("received");
            });
            let task = told.recv().expect("received");
            assert!(!new_privs(&task));
            assert_eq!(new_privs(&own()), before);
            done.send(()).expect("sent");
        });
    }

    #[test]
    fn the_top_of_all_is_no_restriction() {
        let top = Root::open(b"/").expect("open");
        let confinement = Confinement::to(top.fd(), Access::Read).expect("none");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                confinement.enter().expect("entered");
                assert!(!is_confined());
            });
        });
    }
}
