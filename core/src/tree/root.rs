//! What a root is known by, and what its file system can and cannot tell.

use std::io;

use crate::beneath::{self, Root};

/// File systems that another machine, or a process behind the kernel's back, can write: no watch tells of that.
/// Magic numbers of linux/magic.h and of coreutils' stat.c, which calls the same ones remote.
#[cfg(target_os = "linux")]
const REMOTE: [u32; 21] = [
    0x0000_6969, // nfs
    0xff53_4d42, // cifs
    0xfe53_4d42, // smb2
    0x0000_517b, // smb
    0x0102_1997, // 9p
    0x6573_5546, // fuse, virtiofs
    0x5346_414f, // afs
    0x6b41_4653, // k-afs
    0x00c3_6400, // ceph
    0x786f_4256, // vboxsf
    0xbacb_acbc, // vmhgfs
    0x0bd0_0bd0, // lustre
    0x4750_4653, // gpfs
    0x0116_1970, // gfs
    0x7461_636f, // ocfs2
    0x1983_0326, // fhgfs, beegfs
    0x7375_7245, // coda
    0xaad7_aaea, // panfs
    0xa501_fcf5, // vxfs
    0xbeef_dead, // snfs
    0x6163_6673, // acfs
];

/// A root is the same one as long as these are: device numbers change at boot, and paths lead elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The file system's own id; where it has none that lasts, its device.
    pub fs: u64,
    /// Inode of the root directory.
    pub ino: u64,
    /// When it was made, seconds and nanoseconds; 0 where that is not kept.
    pub born: (i64, u32),
}

/// Length of an identity in a saved index.
pub const IDENTITY: usize = 28;

impl Identity {
    /// That of an open root.
    #[cfg(target_os = "linux")]
    pub fn of(root: &Root) -> io::Result<Self> {
        use rustix::fs::{AtFlags, StatxFlags};
        let id = rustix::fs::fstatvfs(root.fd())?.f_fsid;
        let meta = beneath::stat(root.fd())?;
        let asked = StatxFlags::BTIME;
        let born = match rustix::fs::statx(root.fd(), c"", AtFlags::EMPTY_PATH, asked) {
            Ok(stx) if stx.stx_mask & asked.bits() != 0 => (stx.stx_btime.tv_sec, stx.stx_btime.tv_nsec),
            _ => (0, 0),
        };
        Ok(Self {
            fs: if id == 0 { meta.id.0 } else { id },
            ino: meta.id.1,
            born,
        })
    }

    /// That of an open root.
    #[cfg(not(target_os = "linux"))]
    pub fn of(root: &Root) -> io::Result<Self> {
        let meta = beneath::stat(root.fd())?;
        Ok(Self {
            fs: meta.id.0,
            ino: meta.id.1,
            born: (0, 0),
        })
    }

    /// As it is saved.
    pub fn to_bytes(self) -> [u8; IDENTITY] {
        let mut out = [0; IDENTITY];
        out[..8].copy_from_slice(&self.fs.to_le_bytes());
        out[8..16].copy_from_slice(&self.ino.to_le_bytes());
        out[16..24].copy_from_slice(&self.born.0.to_le_bytes());
        out[24..].copy_from_slice(&self.born.1.to_le_bytes());
        out
    }
}

/// Whether there is nothing in it but what is ours.
pub fn is_empty(root: &Root) -> io::Result<bool> {
    let dir = beneath::open_dir_at(root.fd(), b".")?;
    let mut empty = true;
    beneath::each_name(&dir, |name| empty &= crate::temp::is_private(name))?;
    Ok(empty)
}

/// Whether changes in this directory's file system may come from elsewhere. Where it cannot be told, they may.
#[cfg(target_os = "linux")]
pub fn is_remote(dir: std::os::fd::BorrowedFd<'_>) -> bool {
    rustix::fs::fstatfs(dir).map_or(true, |fs| REMOTE.contains(&(fs.f_type as u32)))
}

/// Whether changes in this directory's file system may come from elsewhere: nothing is watched here anyway.
#[cfg(not(target_os = "linux"))]
pub fn is_remote(_dir: std::os::fd::BorrowedFd<'_>) -> bool {
    true
}

/// The coarsest of the usual steps in which the root's file system stores times, in ns; 1 when it cannot be told
/// without leaving a trace.
pub fn granule(root: &Root) -> u32 {
    const ODD: (i64, u32) = (1_234_567_891, 987_654_321);
    let Ok(stored) = beneath::stored_time(root.fd(), ODD) else {
        return 1;
    };
    let stored_ns = i128::from(stored.0) * 1_000_000_000 + i128::from(stored.1);
    let asked_ns = i128::from(ODD.0) * 1_000_000_000 + i128::from(ODD.1);
    [1, 100, 1_000, 1_000_000, 10_000_000, 1_000_000_000, 2_000_000_000]
        .into_iter()
        .find(|&g| asked_ns - asked_ns.rem_euclid(i128::from(g)) == stored_ns)
        .unwrap_or(1)
}
