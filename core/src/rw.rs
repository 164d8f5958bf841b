//! Whole reads and writes at an offset: nothing short, nothing interrupted.

use std::io;
use std::os::fd::OwnedFd;

/// Writes all of `content` at `at`.
pub fn write_at(file: &OwnedFd, mut content: &[u8], mut at: u64) -> io::Result<()> {
    while !content.is_empty() {
        match rustix::io::pwrite(file, content, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                content = &content[n..];
                at += n as u64;
            }
            Err(rustix::io::Errno::INTR) => {}
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
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}
