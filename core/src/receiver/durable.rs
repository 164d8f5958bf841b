//! What was changed and is not yet known to be on disk, and the calls that put it there.
//!
//! A handful of files and directories is synced one by one; beyond that one `syncfs` for all of a file system costs less.
//! A sync that failed is not tried again: the kernel has marked the pages clean, and the next call would succeed without
//! them (wiki.postgresql.org/wiki/Fsync_Errors). What was written before it is sent again.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use crate::beneath::{self, lock};
use crate::failpoint::{self, Point};

/// When what was applied has to be on disk: docs/protocol.md, OPEN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// When the kernel likes.
    Never,
    /// Before it is acknowledged; many files at once.
    Batch,
    /// Before it is acknowledged; each file by itself.
    Always,
}

impl Fsync {
    /// By its name in OPEN.
    pub fn new(name: &str) -> Option<Self> {
        match name {
            "never" => Some(Self::Never),
            "batch" => Some(Self::Batch),
            "always" => Some(Self::Always),
            _ => None,
        }
    }
}

/// So many are synced one by one. Measured on ext4, files of 4 KiB, both steps of a commit: 1 file 13 ms by fsync and 16 by
/// syncfs, 2 files 21 and 22, 4 files 39 and 28, 8 files 65 and 43. What others write there only syncfs waits for.
const HANDFUL: usize = 4;
/// With `Always`, so that no more are held open.
const ALWAYS_HANDFUL: usize = 64;

/// Device and inode.
type Id = (u64, u64);

/// A handful of files and directories, or whole file systems.
#[derive(Default)]
struct Dirt {
    few: Vec<(Id, Arc<OwnedFd>)>,
    many: bool,
    devices: Vec<u64>,
}

/// The same of one session.
#[derive(Default)]
pub struct Durable {
    /// Nothing before the destination is known. Never where nothing outlives a power cut anyway.
    mode: OnceLock<Fsync>,
    dirt: Mutex<Dirt>,
    /// A handle for each file system, on which nothing else is done: the kernel tells of each failure to write back once
    /// for every handle that was open then.
    systems: Mutex<Vec<(u64, Arc<OwnedFd>)>>,
    failures: AtomicU64,
}

impl Durable {
    /// `root` is the destination, or the directory that it is in.
    pub fn begin(&self, asked: Fsync, root: BorrowedFd<'_>) {
        let _ = self.mode.set(if persists(root) { asked } else { Fsync::Never });
    }

    /// What is done in this session.
    pub fn mode(&self) -> Fsync {
        self.mode.get().copied().unwrap_or(Fsync::Never)
    }

    /// Whether nothing is synced.
    pub fn is_off(&self) -> bool {
        self.mode() == Fsync::Never
    }

    /// How many syncs of whole file systems failed. What was begun before the last one may have been lost by it.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Acquire)
    }

    /// Names in `dir` were changed.
    pub fn changed(&self, dir: &Arc<OwnedFd>) -> io::Result<()> {
        self.add(dir, dir, false)
    }

    /// `file`, which is in `dir`, was written.
    pub fn wrote(&self, dir: &Arc<OwnedFd>, file: &Arc<OwnedFd>) -> io::Result<()> {
        self.add(dir, file, false)
    }

    /// Something was changed in `dir` that takes more than itself to be on disk.
    pub fn restructured(&self, dir: &Arc<OwnedFd>) -> io::Result<()> {
        self.add(dir, dir, true)
    }

    fn add(&self, dir: &Arc<OwnedFd>, fd: &Arc<OwnedFd>, many: bool) -> io::Result<()> {
        if self.is_off() {
            return Ok(());
        }
        let id = beneath::stat(fd)?.id;
        let handful = match self.mode() {
            Fsync::Always => ALWAYS_HANDFUL,
            _ => HANDFUL,
        };
        let mut dirt = lock(&self.dirt);
        if !dirt.devices.contains(&id.0) {
            self.know(id.0, dir)?;
            dirt.devices.push(id.0);
        }
        if !dirt.many && !many && !dirt.few.iter().any(|(known, _)| *known == id) {
            dirt.few.push((id, Arc::clone(fd)));
        }
        if many || dirt.few.len() > handful {
            dirt.many = true;
            dirt.few = Vec::new();
        }
        Ok(())
    }

    fn know(&self, device: u64, dir: &Arc<OwnedFd>) -> io::Result<()> {
        let mut systems = lock(&self.systems);
        if systems.iter().all(|(known, _)| *known != device) {
            systems.push((device, Arc::new(beneath::open_again(dir)?)));
        }
        Ok(())
    }

    /// Puts all that was changed before the call on disk. Err: any of it may not be there, and may never be.
    pub fn sync(&self) -> io::Result<()> {
        let dirt = std::mem::take(&mut *lock(&self.dirt));
        if dirt.devices.is_empty() {
            return Ok(());
        }
        let done = failpoint::fail(Point::SyncFails).and_then(|()| match dirt.many {
            true => self.sync_systems(&dirt.devices),
            false => dirt.few.iter().try_for_each(|(_, fd)| Ok(rustix::fs::fsync(&**fd)?)),
        });
        if done.is_err() {
            if dirt.many {
                self.failures.fetch_add(1, Ordering::AcqRel);
            }
            let mut again = lock(&self.dirt);
            again.many = true;
            again.few = Vec::new();
            again.devices = dirt.devices;
        }
        done
    }

    fn sync_systems(&self, devices: &[u64]) -> io::Result<()> {
        for device in devices {
            let known = lock(&self.systems).iter().find(|(d, _)| d == device).cloned();
            if let Some((_, fd)) = known {
                sync_system(&fd)?;
            }
        }
        Ok(())
    }
}

#[cfg(target_os = "linux")]
fn sync_system(fd: &OwnedFd) -> io::Result<()> {
    Ok(rustix::fs::syncfs(fd)?)
}

#[cfg(not(target_os = "linux"))]
fn sync_system(_fd: &OwnedFd) -> io::Result<()> {
    rustix::fs::sync();
    Ok(())
}

/// Whether what is written there outlives the kernel. Where that is not known, it does.
#[cfg(target_os = "linux")]
fn persists(dir: BorrowedFd<'_>) -> bool {
    // linux/magic.h
    const TMPFS: u32 = 0x0102_1994;
    const RAMFS: u32 = 0x8584_58f6;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "magic numbers have 32 bits"
    )]
    let kind = rustix::fs::fstatfs(dir).map(|fs| fs.f_type as u32);
    !matches!(kind, Ok(TMPFS | RAMFS))
}

#[cfg(not(target_os = "linux"))]
fn persists(_dir: BorrowedFd<'_>) -> bool {
    true
}
