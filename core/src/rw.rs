//! Whole reads and writes at an offset: nothing short, nothing interrupted.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

/// Bytes copied between two looks at whether to go on.
#[cfg(target_os = "linux")]
const STRETCH: usize = 16 << 20;
/// Bytes copied at a time where the kernel does not copy.
const BUFFER: usize = 256 << 10;

/// Writes all of `content` at `at`.
pub fn write_at(file: &OwnedFd, mut content: &[u8], mut at: u64) -> io::Result<()> {
    while !content.is_empty() {
        match rustix::io::pwrite(file, content, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                content = &content[n..];
                at += n as u64;
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Fills `into` from `at`; an early end of the file is an error.
pub fn read_at(file: &OwnedFd, mut at: u64, mut into: &mut [u8]) -> io::Result<()> {
    while !into.is_empty() {
        match rustix::io::pread(file, &mut *into, at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                into = &mut into[n..];
                at += n as u64;
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Copies `size` bytes from the start of `from`, which holds as many, to that of `to`: within the file system where that
/// can. Fails when `stopped` meanwhile.
pub fn copy_file(from: &OwnedFd, to: &OwnedFd, size: u64, stopped: impl Fn() -> bool) -> io::Result<()> {
    let mut at = 0;
    #[cfg(target_os = "linux")]
    while at < size && !stopped() {
        let most = (size - at).min(STRETCH as u64) as usize;
        let (mut read, mut written) = (at, at);
        match rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut written), most) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => at += n as u64,
            Err(Errno::INTR) => {}
            // Not between these file systems, or not at all.
            Err(_) => break,
        }
    }
    let mut buffer = vec![0; BUFFER.min((size - at) as usize)];
    while at < size && !stopped() {
        let most = (size - at).min(BUFFER as u64) as usize;
        read_at(from, at, &mut buffer[..most])?;
        write_at(to, &buffer[..most], at)?;
        at += most as u64;
    }
    if at < size {
        return Err(io::ErrorKind::Interrupted.into());
    }
    Ok(())
}
