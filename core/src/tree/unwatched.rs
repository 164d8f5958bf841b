//! Where the kernel offers no inotify: nothing is watched, and every refresh reads every directory.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

use super::dirty::Dirty;

/// No watch.
pub struct Watch;

impl Watch {
    /// There is none to be had.
    pub fn new(_dirty: Arc<Mutex<Dirty>>) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Never called: no `Watch` is made.
    pub fn add(&self, _dir: BorrowedFd<'_>) -> io::Result<i32> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Never called.
    pub fn mute(&self, _dir: BorrowedFd<'_>) -> io::Result<i32> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Never called.
    pub fn remove(&self, _wd: i32) {}

    /// Never called.
    pub fn drain(&self) {}

    /// Never called.
    pub fn stop(&self) {}
}
