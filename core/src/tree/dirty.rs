//! What events name to be looked at again, folded as they come: at most a few hundred names a directory.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::list::REGULAR;
use crate::temp;
use crate::wake::Wake;

use super::dir::Stat;

/// Beyond so many names the whole directory is looked at: reading it costs no more then.
pub const NAMES_MAX: usize = 512;
/// A file that was modified and not closed is left alone until it was quiet for so long,
const QUIET: Duration = Duration::from_secs(2);
/// but not for longer than this: what is appended to for ever, a log, is to arrive too.
const HELD_MAX: Duration = Duration::from_secs(10);
/// A file that was emptied is expected to be filled again within this time.
pub const REFILL: Duration = Duration::from_millis(300);

/// So many names are looked at for whether they are at rest: what saves name. More are a burst.
const AT_REST_MAX: usize = 8;

/// inotify's event bits, as the kernel defines them (linux/inotify.h).
pub mod bits {
    #![allow(missing_docs, reason = "inotify(7) explains them")]
    pub const MODIFY: u32 = 0x2;
    pub const ATTRIB: u32 = 0x4;
    pub const CLOSE_WRITE: u32 = 0x8;
    pub const MOVED_FROM: u32 = 0x40;
    pub const MOVED_TO: u32 = 0x80;
    pub const CREATE: u32 = 0x100;
    pub const DELETE: u32 = 0x200;
    pub const DELETE_SELF: u32 = 0x400;
    pub const MOVE_SELF: u32 = 0x800;
    pub const UNMOUNT: u32 = 0x2000;
    pub const Q_OVERFLOW: u32 = 0x4000;
    pub const IGNORED: u32 = 0x8000;
    pub const ONLYDIR: u32 = 0x0100_0000;
    pub const EXCL_UNLINK: u32 = 0x0400_0000;
}

/// What events said of a name since it was last looked at.
#[derive(Clone, Copy, Debug)]
pub struct Touched {
    /// The first and the last of them.
    pub first: Instant,
    /// See `first`.
    pub last: Instant,
    writing: Writing,
    /// The name was taken away, and nothing was put there since.
    gone: bool,
    /// It is held, and due then.
    pub due: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writing {
    No,
    /// It was created, and not closed since; what is made by other means than opening never will be.
    Created,
    /// It was modified, and not closed since.
    Modified,
}

impl Touched {
    /// A name that is due without an event.
    pub fn at(now: Instant) -> Self {
        Self {
            first: now,
            last: now,
            writing: Writing::No,
            gone: false,
            due: None,
        }
    }

    /// The same, held until then.
    pub fn held(mut self, due: Instant) -> Self {
        self.due = Some(due);
        self
    }

    fn event(&mut self, mask: u32, now: Instant) {
        self.last = now;
        self.due = None;
        if mask & (bits::MOVED_FROM | bits::DELETE) != 0 {
            self.gone = true;
        } else if mask & (bits::MOVED_TO | bits::CREATE) != 0 {
            self.gone = false;
        }
        if mask & (bits::CLOSE_WRITE | bits::MOVED_TO | bits::MOVED_FROM | bits::DELETE) != 0 {
            self.writing = Writing::No;
            self.first = now;
        } else if mask & bits::MODIFY != 0 {
            self.writing = Writing::Modified;
        } else if mask & bits::CREATE != 0 {
            self.writing = Writing::Created;
            self.first = now;
        }
    }

    /// Whether the last events leave nothing to be expected: a file that was there is there and closed, or a name that
    /// was not there is gone again.
    fn at_rest(&self, known: bool) -> bool {
        self.writing == Writing::No && known != self.gone
    }

    /// Until when the file is to be left as it is known, since somebody is at work on it.
    pub fn held_until(&self, now: Option<&Stat>, known: Option<&Stat>, clock: Instant) -> Option<Instant> {
        let now = now.filter(|stat| stat.kind == REGULAR)?;
        let emptied = now.size == 0 && known.is_some_and(|k| k.kind == REGULAR && k.size > 0);
        let until = match self.writing {
            Writing::Modified => (self.last + QUIET).min(self.first + HELD_MAX),
            Writing::Created if now.size == 0 && !now.linked => self.last + REFILL,
            _ if emptied => self.last + REFILL,
            _ => return None,
        };
        (until > clock).then_some(until)
    }
}

/// A directory's part of the dirt.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// All of it; then only files that are being written are named.
    pub all: bool,
    /// Each with what happened to it.
    pub names: HashMap<Box<[u8]>, Touched>,
}

impl Names {
    fn event(&mut self, name: &[u8], mask: u32, now: Instant) {
        if let Some(touched) = self.names.get_mut(name) {
            touched.event(mask, now);
            return;
        }
        if self.names.len() >= NAMES_MAX {
            self.all = true;
            self.names.retain(|_, touched| touched.writing == Writing::Modified);
            if self.names.len() >= NAMES_MAX {
                return;
            }
        }
        if self.all && mask & bits::MODIFY == 0 {
            return;
        }
        let mut touched = Touched::at(now);
        touched.event(mask, now);
        self.names.insert(name.into(), touched);
    }

    /// What was taken and could not be dealt with; what came meanwhile is newer.
    fn put_back(&mut self, older: Names) {
        self.all |= older.all;
        for (name, touched) in older.names {
            if self.names.len() >= NAMES_MAX && !self.names.contains_key(&name) {
                self.all = true;
                continue;
            }
            let kept = self.names.entry(name).or_insert(touched);
            kept.first = kept.first.min(touched.first);
        }
    }
}

/// All that is to be looked at, by watch descriptor: the index is not asked while events are read.
#[derive(Debug, Default)]
pub struct Dirt {
    /// By watch descriptor.
    pub dirs: HashMap<i32, Names>,
    /// The kernel ended these watches.
    pub lost: Vec<i32>,
    /// Events were lost, or a file system went away: everything is dirty.
    pub everything: bool,
}

impl Dirt {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        !self.everything && self.dirs.is_empty() && self.lost.is_empty()
    }
}

/// The dirt of a tree, and who is told of it.
pub struct Dirty {
    dirt: Dirt,
    /// Overflows so far.
    pub overflows: u64,
    wake: Wake,
    /// A refresh reads events itself: nobody needs to be told.
    quiet: bool,
}

impl Dirty {
    /// None yet; `wake` is signalled by the first of it, and by the first after each `take`.
    pub fn new(wake: Wake) -> Self {
        Self {
            dirt: Dirt::default(),
            overflows: 0,
            wake,
            quiet: false,
        }
    }

    /// Folds one event; `name` is empty when it is about the directory itself.
    pub fn event(&mut self, wd: i32, mask: u32, name: &[u8], now: Instant) {
        if mask & bits::Q_OVERFLOW != 0 {
            self.overflows += 1;
            self.dirt.everything = true;
        } else if mask & bits::IGNORED != 0 {
            self.dirt.dirs.remove(&wd);
            self.dirt.lost.push(wd);
            // What ended it was told of before: a directory removed, a file system gone, or the watch's end by us.
            return;
        } else if mask & bits::UNMOUNT != 0 {
            self.dirt.everything = true;
        } else if name.is_empty() {
            // Its parent's watch names it, but the root has no such parent: it is looked at by every refresh.
            if mask & (bits::MOVE_SELF | bits::DELETE_SELF | bits::ATTRIB) == 0 {
                return;
            }
        } else if !temp::is_private(name) {
            self.dirt.dirs.entry(wd).or_default().event(name, mask, now);
        } else {
            return;
        }
        self.tell();
    }

    /// All of a directory is to be looked at.
    pub fn all(&mut self, wd: i32) {
        self.dirt.dirs.entry(wd).or_default().all = true;
        self.tell();
    }

    /// Everything is to be looked at once more.
    pub fn stay(&mut self) {
        self.dirt.everything = true;
    }

    fn tell(&self) {
        if !self.quiet {
            self.wake.signal();
        }
    }

    /// Events are being read by whoever takes the dirt next.
    pub fn hush(&mut self) {
        self.quiet = true;
    }

    /// Takes all there is; the first dirt from now on is told of.
    pub fn take(&mut self) -> Dirt {
        self.quiet = false;
        self.wake.rearm();
        std::mem::take(&mut self.dirt)
    }

    /// These stay dirty.
    pub fn put_back(&mut self, wd: i32, names: Names) {
        if names.all || !names.names.is_empty() {
            self.dirt.dirs.entry(wd).or_default().put_back(names);
        }
    }

    /// Whether a few names are all the dirt, and each of them at rest; `known` says whether there was a name of a
    /// watched directory.
    pub fn at_rest(&self, known: impl Fn(i32, &[u8]) -> bool) -> bool {
        let dirt = &self.dirt;
        let count: usize = dirt.dirs.values().map(|names| names.names.len()).sum();
        let named = !dirt.everything && dirt.lost.is_empty() && dirt.dirs.values().all(|names| !names.all);
        let mut each = dirt.dirs.iter().flat_map(|(&wd, names)| {
            let one = move |(name, touched)| (wd, name, touched);
            names.names.iter().map(one)
        });
        named && (1..=AT_REST_MAX).contains(&count) && each.all(|(wd, name, touched)| touched.at_rest(known(wd, name)))
    }

    /// When the first held file is due.
    pub fn due(&self) -> Option<Instant> {
        let names = self.dirt.dirs.values().flat_map(|names| names.names.values());
        names.filter_map(|touched| touched.due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(size: u64) -> Stat {
        Stat {
            kind: REGULAR,
            mode: 0o644,
            size,
            mtime: (1, 0),
            ctime: (1, 0),
            ino: 1,
            linked: false,
            uid: 0,
            gid: 0,
        }
    }

    fn after(masks: &[u32], at: Instant) -> Touched {
        let mut touched = Touched::at(at);
        masks.iter().for_each(|mask| touched.event(*mask, at));
        touched
    }

    #[test]
    fn a_file_is_held_while_it_is_written_and_not_for_ever() {
        let now = Instant::now();
        let full = file(5);
        let open = after(&[bits::MODIFY], now);
        assert_eq!(open.held_until(Some(&full), None, now), Some(now + QUIET));
        assert_eq!(open.held_until(Some(&full), None, now + QUIET), None);
        let mut busy = open;
        for second in 1..=20 {
            busy.event(bits::MODIFY, now + Duration::from_secs(second));
        }
        assert_eq!(busy.held_until(Some(&full), None, now + HELD_MAX), None);
        let closed = after(&[bits::MODIFY, bits::CLOSE_WRITE], now);
        assert_eq!(closed.held_until(Some(&full), None, now), None);
        let replaced = after(&[bits::MODIFY, bits::MOVED_TO], now);
        assert_eq!(replaced.held_until(Some(&full), None, now), None);
        assert_eq!(open.held_until(None, Some(&full), now), None);
    }

    #[test]
    fn an_emptied_file_is_given_the_time_to_be_filled() {
        let now = Instant::now();
        let closed = after(&[bits::MODIFY, bits::CLOSE_WRITE], now);
        assert_eq!(
            closed.held_until(Some(&file(0)), Some(&file(5)), now),
            Some(now + REFILL)
        );
        assert_eq!(closed.held_until(Some(&file(0)), Some(&file(0)), now), None);
        assert_eq!(closed.held_until(Some(&file(0)), None, now), None);
        let created = after(&[bits::CREATE], now);
        assert_eq!(created.held_until(Some(&file(0)), None, now), Some(now + REFILL));
        assert_eq!(created.held_until(Some(&file(3)), None, now), None);
    }

    #[test]
    fn many_names_are_the_whole_directory_but_those_being_written_are_kept() {
        let mut dirty = Dirty::new(Wake::new(-1));
        let now = Instant::now();
        dirty.event(7, bits::MODIFY, b"open", now);
        for i in 0..2 * NAMES_MAX {
            dirty.event(7, bits::CREATE, format!("f{i}").as_bytes(), now);
        }
        dirty.event(7, bits::CREATE, b".f.0123abcd01234567.sync~", now);
        let dirt = dirty.take();
        let names = &dirt.dirs[&7];
        assert!(names.all);
        assert_eq!(names.names.keys().map(|name| &name[..]).collect::<Vec<_>>(), [b"open"]);
        assert!(dirty.take().is_empty());
    }

    #[test]
    fn temporaries_of_ours_are_no_dirt_and_lost_watches_are() {
        let mut dirty = Dirty::new(Wake::new(-1));
        let now = Instant::now();
        dirty.event(1, bits::CREATE, b".f.0123abcd01234567.sync~", now);
        assert!(dirty.take().is_empty());
        dirty.event(1, bits::CREATE, b"a", now);
        dirty.event(1, bits::IGNORED, b"", now);
        dirty.event(-1, bits::Q_OVERFLOW, b"", now);
        let dirt = dirty.take();
        assert!(dirt.everything && dirt.dirs.is_empty());
        assert_eq!((dirt.lost, dirty.overflows), (vec![1], 1));
    }
}
