//! Directories that are used again and again, held open.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, OnceLock};

use super::{Root, lock};

/// Directory handles kept per root: enough for the directories a batch touches.
const HANDLES_MAX: usize = 128;

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
        {
            let mut kept = lock(&self.kept);
            kept.clock += 1;
            let now = kept.clock;
            if let Some((fd, used)) = kept.by_path.get_mut(path) {
                *used = now;
                return Ok(Arc::clone(fd));
            }
        }
        let fd = match self.root.open_dir(path) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                lock(&self.kept).by_path.clear();
                self.root.open_dir(path)?
            }
            opened => opened?,
        };
        let fd = Arc::new(fd);
        let mut kept = lock(&self.kept);
        if kept.by_path.len() >= at_most(HANDLES_MAX) {
            let oldest = median_use(&kept);
            kept.by_path.retain(|_, (_, used)| *used > oldest);
        }
        let now = kept.clock;
        kept.by_path.insert(path.into(), (Arc::clone(&fd), now));
        Ok(fd)
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
}
