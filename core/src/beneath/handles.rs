//! Directories that are used again and again, held open.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock};

use super::root::open_from;
use super::{Root, lock};

/// Directory handles kept per root: enough for the directories a batch touches.
const HANDLES_MAX: usize = 128;
/// In a path of more components than this, every so many-th directory on the way is kept too: what is thousands deep is
/// not walked to from the top each time.
const STRIDE: usize = 64;

/// `most` handles for one purpose, or fewer in a process that may not have many.
pub fn at_most(most: usize) -> usize {
    static SHARE: OnceLock<usize> = OnceLock::new();
    let share = SHARE.get_or_init(|| {
        let all = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        all.map_or(usize::MAX, |all| usize::try_from(all / 16).unwrap_or(usize::MAX).max(2))
    });
    most.min(*share)
}

/// Handles of directories below one root, the recently used ones kept open.
pub struct Handles {
    root: Root,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    by_path: HashMap<Box<[u8]>, (Arc<OwnedFd>, u64)>,
    clock: u64,
}

impl Handles {
    /// No handles yet but the root's.
    pub fn new(root: Root) -> Self {
        Self {
            root,
            kept: Mutex::default(),
        }
    }

    /// The root itself.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// The directory `path` beneath the root.
    pub fn dir(&self, path: &[u8]) -> io::Result<Arc<OwnedFd>> {
        match self.kept(path) {
            Some(fd) => Ok(fd),
            None => Ok(self.keep(path, self.own(path)?)),
        }
    }

    /// The directory `path` beneath the root, by a handle that is not shared; "" is the root by another handle.
    pub fn own(&self, path: &[u8]) -> io::Result<OwnedFd> {
        match self.reach(path) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                lock(&self.kept).by_path.clear();
                self.reach(path)
            }
            reached => reached,
        }
    }

    fn reach(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let slashes = path.iter().enumerate().filter(|&(_, &b)| b == b'/').map(|(at, _)| at);
        let ways: Vec<usize> = slashes.skip(STRIDE - 1).step_by(STRIDE).collect();
        let (mut from, mut done) = (None, 0);
        for (n, &end) in ways.iter().enumerate().rev() {
            from = self.kept(&path[..end]);
            if from.is_some() {
                done = n + 1;
                break;
            }
        }
        let mut at = done.checked_sub(1).map_or(0, |n| ways[n] + 1);
        for &end in &ways[done..] {
            let fd = open_from(self.base(from.as_ref()), &path[at..end])?;
            from = Some(self.keep(&path[..end], fd));
            at = end + 1;
        }
        match &from {
            None => self.root.open_dir(path),
            Some(fd) => open_from(fd.as_fd(), &path[at..]),
        }
    }

    fn base<'a>(&'a self, from: Option<&'a Arc<OwnedFd>>) -> BorrowedFd<'a> {
        from.map_or(self.root.fd(), |fd| fd.as_fd())
    }

    fn kept(&self, path: &[u8]) -> Option<Arc<OwnedFd>> {
        let mut kept = lock(&self.kept);
        kept.clock += 1;
        let now = kept.clock;
        let (fd, used) = kept.by_path.get_mut(path)?;
        *used = now;
        Some(Arc::clone(fd))
    }

    fn keep(&self, path: &[u8], fd: OwnedFd) -> Arc<OwnedFd> {
        let fd = Arc::new(fd);
        let mut kept = lock(&self.kept);
        if kept.by_path.len() >= at_most(HANDLES_MAX) {
            let oldest = median_use(&kept);
            kept.by_path.retain(|_, (_, used)| *used > oldest);
        }
        let now = kept.clock;
        kept.by_path.insert(path.into(), (Arc::clone(&fd), now));
        fd
    }

    /// Forgets `path` and everything below it: it was replaced or removed.
    pub fn forget(&self, path: &[u8]) {
        let below = |p: &[u8]| p.starts_with(path) && (p.len() == path.len() || p[path.len()] == b'/');
        lock(&self.kept).by_path.retain(|p, _| !below(p));
    }
}

/// Half of the kept handles were used after this moment: closing the other half at once keeps eviction cheap.
fn median_use(kept: &Kept) -> u64 {
    let mut uses: Vec<u64> = kept.by_path.values().map(|(_, used)| *used).collect();
    uses.sort_unstable();
    uses.get(uses.len() / 2).copied().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::super::tests::scratch;
    use super::*;

    #[test]
    fn handles_forget_what_was_replaced() {
        let dir = scratch("handles");
        std::fs::create_dir_all(dir.join("a/b")).expect("mkdir");
        let handles = Handles::new(Root::open(dir.as_os_str().as_bytes()).expect("open"));
        let before = handles.dir(b"a/b").expect("dir");
        assert!(Arc::ptr_eq(&before, &handles.dir(b"a/b").expect("dir")));
        handles.forget(b"a");
        assert!(!Arc::ptr_eq(&before, &handles.dir(b"a/b").expect("dir")));
        for i in 0..3 * HANDLES_MAX {
            let name = format!("d{i}");
            std::fs::create_dir(dir.join(&name)).expect("mkdir");
            handles.dir(name.as_bytes()).expect("dir");
        }
        assert!(lock(&handles.kept).by_path.len() <= HANDLES_MAX);
        std::fs::remove_dir_all(dir).expect("clean");
    }
    #[test]
    fn what_is_deep_is_reached_from_what_is_kept_on_the_way() {
        let dir = scratch("strides");
        let handles = Handles::new(Root::open(dir.as_os_str().as_bytes()).expect("open"));
        let mut path = Vec::new();
        for depth in 1..=5 * STRIDE + 1 {
            let parent = handles.dir(&path).expect("parent");
            super::super::mkdir_at(&*parent, b"d").expect("mkdir");
            path = super::super::join(&path, b"d");
            let own = handles.own(&path).expect("own");
            let from_top = handles.root().open_dir(&path).expect("from the root");
            let id = |fd: &OwnedFd| super::super::stat(fd).expect("stat").id;
            assert_eq!(id(&own), id(&from_top), "{depth}");
        }
        // Every 64th, and half of the others at least.
        handles.forget(b"d");
        assert!(lock(&handles.kept).by_path.len() <= 1);
        let deepest = handles.own(&path).expect("own");
        assert_eq!(lock(&handles.kept).by_path.keys().filter(|p| !p.is_empty()).count(), 5);
        drop(deepest);
        assert!(handles.own(&[&path[..], b"/no"].concat()).is_err());
        let status = std::process::Command::new("rm").arg("-rf").arg(&dir).status();
        assert!(status.expect("rm").success());
    }
}
