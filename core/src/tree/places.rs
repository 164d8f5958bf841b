//! Which directory has which watch, and which have none that can be relied on.

use std::collections::{HashMap, HashSet};

use super::dir::DirId;

/// Both ways between watch descriptors and directories.
#[derive(Debug, Default)]
pub struct Places {
    by_wd: HashMap<i32, DirId>,
    /// 0: none. Watch descriptors begin at 1.
    by_dir: Vec<i32>,
    polled: HashSet<DirId>,
}

impl Places {
    /// The directory that a watch is on.
    pub fn dir(&self, wd: i32) -> Option<DirId> {
        self.by_wd.get(&wd).copied()
    }

    /// The watch of a directory.
    pub fn wd(&self, dir: DirId) -> Option<i32> {
        self.by_dir.get(dir as usize).copied().filter(|&wd| wd != 0)
    }

    /// Whether the directory is watched, or known to have to be read again every time.
    pub fn knows(&self, dir: DirId) -> bool {
        self.wd(dir).is_some() || self.polled.contains(&dir)
    }

    /// `wd` is the watch of `dir`, which moved here, or of the same directory mounted twice: the other one is polled
    /// then, until it is found gone. Returns a watch that `dir` had before, to be ended.
    #[must_use]
    pub fn bind(&mut self, dir: DirId, wd: i32, remote: bool) -> Option<i32> {
        let index = dir as usize;
        if self.by_dir.len() <= index {
            self.by_dir.resize(index + 1, 0);
        }
        let before = std::mem::replace(&mut self.by_dir[index], wd);
        if let Some(other) = self.by_wd.insert(wd, dir).filter(|&other| other != dir) {
            self.by_dir[other as usize] = 0;
            self.polled.insert(other);
        }
        if remote {
            self.polled.insert(dir);
        } else {
            self.polled.remove(&dir);
        }
        if before == 0 || before == wd {
            return None;
        }
        self.by_wd.remove(&before);
        Some(before)
    }

    /// `dir` has no watch and is to be read again every time. Returns one that it had.
    #[must_use]
    pub fn poll(&mut self, dir: DirId) -> Option<i32> {
        let before = self.forget(dir);
        self.polled.insert(dir);
        before
    }

    /// The kernel ended this watch: until it has another one, its directory is polled.
    pub fn lost(&mut self, wd: i32) {
        if let Some(dir) = self.by_wd.remove(&wd) {
            self.by_dir[dir as usize] = 0;
            self.polled.insert(dir);
        }
    }

    /// `dir` is no more. Returns its watch, to be ended, unless a directory that moved has it now.
    #[must_use]
    pub fn forget(&mut self, dir: DirId) -> Option<i32> {
        self.polled.remove(&dir);
        let wd = std::mem::take(self.by_dir.get_mut(dir as usize)?);
        self.by_wd.remove(&wd).map(|_| wd)
    }

    /// Directories to be read again every time.
    pub fn polled(&self) -> &HashSet<DirId> {
        &self.polled
    }

    /// Watches.
    pub fn watched(&self) -> usize {
        self.by_wd.len()
    }

    /// Every watch, to be ended; nothing is known afterwards.
    pub fn clear(&mut self) -> Vec<i32> {
        let all = std::mem::take(self);
        all.by_wd.into_keys().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_goes_with_the_directory_that_moved() {
        let mut places = Places::default();
        assert_eq!(places.bind(1, 10, false), None);
        assert_eq!(places.bind(2, 10, false), None);
        assert_eq!((places.dir(10), places.wd(1), places.wd(2)), (Some(2), None, Some(10)));
        assert!(places.polled().contains(&1) && places.knows(1));
        assert_eq!(places.forget(1), None);
        assert_eq!(places.dir(10), Some(2));
        assert_eq!(places.bind(2, 11, false), Some(10));
        assert_eq!((places.dir(10), places.forget(2)), (None, Some(11)));
        assert_eq!((places.watched(), places.polled().len()), (0, 0));
    }

    #[test]
    fn what_lost_its_watch_is_polled_until_it_has_one() {
        let mut places = Places::default();
        assert_eq!(places.bind(5, 3, false), None);
        places.lost(3);
        places.lost(99);
        assert!(places.polled().contains(&5) && places.wd(5).is_none());
        assert_eq!(places.bind(5, 4, false), None);
        assert!(!places.polled().contains(&5));
        assert_eq!(places.bind(5, 4, true), None);
        assert!(places.polled().contains(&5) && places.wd(5) == Some(4));
        assert_eq!(places.poll(5), Some(4));
        assert_eq!(places.clear(), Vec::<i32>::new());
    }
}
