//! The kernel's side of a tree: one inotify instance, and one thread that sleeps until there are events.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

use crate::beneath::lock;

use super::dirty::{Dirty, bits};

/// What is asked of a directory. IN_DONT_FOLLOW would refuse the link that names the held directory.
const MASK: u32 = bits::CREATE
    | bits::DELETE
    | bits::MOVED_FROM
    | bits::MOVED_TO
    | bits::MODIFY
    | bits::CLOSE_WRITE
    | bits::ATTRIB
    | bits::DELETE_SELF
    | bits::MOVE_SELF
    | bits::ONLYDIR
    | bits::EXCL_UNLINK;
/// What is asked of one that will be read anyway: nothing about what is in it.
const MUTED: u32 = bits::DELETE_SELF | bits::MOVE_SELF | bits::ONLYDIR | bits::EXCL_UNLINK;
/// Events are read by so many bytes: the kernel wants room for one at least (16 and a name).
const BLOCK: usize = 64 << 10;
/// Events that follow each other faster than this are taken together: a burst costs few wake-ups. The queue (16,384
/// events by default) takes far more meanwhile.
const NAP: Duration = Duration::from_millis(2);
/// The first so many are not: a save is a handful of events within a millisecond, and is known when the last of them is.
const AWAKE: u32 = 8;
const HEAD: usize = 16;

/// The watches of a tree, and the thread that folds their events into its dirt.
pub struct Watch {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    inotify: OwnedFd,
    stop: OwnedFd,
    /// Whoever reads events folds them before another reads on.
    block: Mutex<Vec<u8>>,
    dirty: Arc<Mutex<Dirty>>,
}

impl Watch {
    /// Begins with no watch. Fails with EMFILE when the user has no instance left (fs.inotify.max_user_instances).
    pub fn new(dirty: Arc<Mutex<Dirty>>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            inotify: inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?,
            stop: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
            block: Mutex::new(vec![0; BLOCK]),
            dirty,
        });
        let own = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("watch".to_owned())
            .stack_size(128 << 10);
        let thread = Mutex::new(Some(thread.spawn(move || own.run())?));
        Ok(Self { shared, thread })
    }

    /// Watches an open directory: by its handle, since a path may lead elsewhere by now. Its watch descriptor, which is
    /// the one it had when it is watched already.
    pub fn add(&self, dir: BorrowedFd<'_>) -> io::Result<i32> {
        self.ask(dir, MASK)
    }

    /// Of what happens in an open directory there are no events until it is added again. Its watch descriptor.
    pub fn mute(&self, dir: BorrowedFd<'_>) -> io::Result<i32> {
        self.ask(dir, MUTED)
    }

    fn ask(&self, dir: BorrowedFd<'_>, mask: u32) -> io::Result<i32> {
        let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
        let mask = WatchFlags::from_bits_retain(mask);
        Ok(inotify::add_watch(&self.shared.inotify, path, mask)?)
    }

    /// Ends a watch.
    pub fn remove(&self, wd: i32) {
        // EINVAL: it ended with its directory.
        let _ = inotify::remove_watch(&self.shared.inotify, wd);
    }

    /// Folds every event that happened before the call.
    pub fn drain(&self) {
        self.shared.drain();
    }

    /// Ends the thread: nobody is told of anything from then on.
    pub fn stop(&self) {
        let _ = rustix::io::write(&self.shared.stop, &1u64.to_ne_bytes());
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn run(&self) {
        let mut last: Option<Instant> = None;
        let mut quick = 0;
        while self.wait(true, None) {
            let follows = last.is_some_and(|last| last.elapsed() < NAP);
            quick = if follows { quick + 1 } else { 0 };
            self.drain();
            if quick >= AWAKE && !self.wait(false, Some(NAP)) {
                return;
            }
            last = Some(Instant::now());
        }
    }

    /// Sleeps until there are `events`, or the time is up; false: it is over.
    fn wait(&self, events: bool, timeout: Option<Duration>) -> bool {
        let timeout = timeout.and_then(|t| Timespec::try_from(t).ok());
        loop {
            let mut fds = [
                PollFd::new(&self.stop, PollFlags::IN),
                PollFd::new(&self.inotify, PollFlags::IN),
            ];
            let count = if events { 2 } else { 1 };
            match poll(&mut fds[..count], timeout.as_ref()) {
                Err(Errno::INTR) => {}
                Err(_) => return false,
                Ok(_) => return fds[0].revents().is_empty(),
            }
        }
    }

    /// Reads what is in the queue, and not what comes while that is read.
    fn drain(&self) {
        let mut block = lock(&self.block);
        let due = rustix::io::ioctl_fionread(&self.inotify).unwrap_or(u64::MAX);
        let mut read = 0;
        while (read as u64) < due {
            match rustix::io::read(&self.inotify, &mut block[..]) {
                Ok(0) => break,
                Ok(n) => {
                    read += n;
                    let now = Instant::now();
                    let mut dirty = lock(&self.dirty);
                    each_event(&block[..n], |wd, mask, name| dirty.event(wd, mask, name, now));
                }
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
    }
}

/// Takes a block apart: struct inotify_event of inotify(7), its name padded with NULs.
fn each_event(mut block: &[u8], mut each: impl FnMut(i32, u32, &[u8])) {
    while let Some((head, rest)) = block.split_at_checked(HEAD) {
        let word = |at: usize| u32::from_ne_bytes(crate::list::array(&head[at..]));
        let Some((name, next)) = rest.split_at_checked(word(12) as usize) else {
            return;
        };
        let end = name.iter().position(|&b| b == 0).unwrap_or(name.len());
        each(word(0) as i32, word(4), &name[..end]);
        block = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_taken_apart() {
        let mut block = Vec::new();
        for (wd, name) in [(1i32, &b"ab\0\0"[..]), (-1, b""), (7, b"abcd")] {
            block.extend_from_slice(&wd.to_ne_bytes());
            block.extend_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0]);
            block.extend_from_slice(&(name.len() as u32).to_ne_bytes());
            block.extend_from_slice(name);
        }
        let mut seen = Vec::new();
        each_event(&block, |wd, mask, name| seen.push((wd, mask, name.to_vec())));
        let two = u32::from_ne_bytes([2, 0, 0, 0]);
        assert_eq!(
            seen,
            [(1, two, b"ab".to_vec()), (-1, two, vec![]), (7, two, b"abcd".to_vec())]
        );
        each_event(&block[..block.len() - 1], |wd, _, _| assert_ne!(wd, 7));
    }
}
