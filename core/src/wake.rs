//! Tells the event loop that an engine has something to take.

use std::os::fd::{BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The write end of a pipe or an eventfd, owned by Python, which outlives the engine.
///
/// One write stands for any number of events until `rearm`, so a busy engine costs one system call a wake-up.
pub struct Wake {
    fd: RawFd,
    signalled: AtomicBool,
}

impl Wake {
    /// Wakes through `fd`; a negative one wakes nobody (tests that poll).
    pub fn new(fd: RawFd) -> Self {
        Self {
            fd,
            signalled: AtomicBool::new(false),
        }
    }

    /// There is something new. Call it after the queue holds it.
    pub fn signal(&self) {
        if self.fd >= 0 && !self.signalled.swap(true, Ordering::AcqRel) {
            // SAFETY: the caller of the engine's constructor keeps `fd` open until `close()` has returned, and no
            // engine thread, so no caller of this function, is left after that.
            let fd = unsafe { BorrowedFd::borrow_raw(self.fd) };
            // A full pipe already holds a wake-up; a closed one has no reader left to wake.
            let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
        }
    }

    /// The queue is about to be looked at: what comes from now on is signalled again. Call it before looking.
    pub fn rearm(&self) {
        self.signalled.store(false, Ordering::Release);
    }
}
