//! What a tree holds under its one lock: the index, and how each of its directories is watched.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::beneath::{Meta, Root, split};

use super::dir::{DirId, Stat};
use super::index::{Index, Seen};
use super::places::Places;
use super::root::{self, Identity};
use super::watch::Watch;

/// The kernel's clock moves in steps of up to 10 ms (CONFIG_HZ=100): a file changed twice within one keeps its times.
const CLOCK_STEP: Duration = Duration::from_millis(20);

/// See the module.
pub struct State {
    pub index: Index,
    pub places: Places,
    /// None: the root was not there yet.
    pub identity: Option<Identity>,
    pub granule: u32,
    /// Nothing is known yet.
    pub new: bool,
    /// What is known is of before this process.
    pub stale: bool,
    /// The saved index is of another root, and the one here is empty.
    pub suspect: bool,
    pub notice: String,
    /// fs.inotify.max_user_watches, read while that can be: who finds that it is reached may be held to the root.
    watches_limit: usize,
    /// This refresh found no watch left, and said so.
    pub limited: bool,
    /// Walks of others that fill the tree.
    pub tees: usize,
    /// Watches that may belong to no directory.
    pub orphans: Vec<i32>,
    /// Directories that could not be read, and are distrusted for that.
    pub unread: BTreeSet<Vec<u8>>,
    /// Whether a device is one that others can write.
    pub remote: HashMap<u64, bool>,
}

impl State {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Self {
            index: Index::new(),
            places: Places::default(),
            identity: None,
            granule: 1,
            new: true,
            stale: false,
            suspect: false,
            notice: String::new(),
            watches_limit: watches_limit(),
            limited: false,
            tees: 0,
            orphans: Vec::new(),
            unread: BTreeSet::new(),
            remote: HashMap::new(),
        }
    }

    /// First sight of the root.
    pub fn meet(&mut self, root: &Root) {
        self.identity = Identity::of(root).ok();
        self.granule = root::granule(root);
    }

    /// A fresh look at a directory itself, by its handle. Whether directories went.
    pub fn itself(&mut self, path: &[u8], meta: &Meta, watch: Option<&Watch>) -> bool {
        let stat = Stat::from(meta);
        if path.is_empty() {
            self.index.root_stat(stat, self.granule);
            return false;
        }
        let (dir, name) = split(path);
        let Some(dir) = self.index.find(dir) else {
            return false;
        };
        let seen = self.index.look(dir, name, Some(stat), self.granule);
        self.seen(seen, watch).1
    }

    /// What a look showed: a directory to be read, whether directories went.
    pub fn seen(&mut self, seen: Seen, watch: Option<&Watch>) -> (Option<DirId>, bool) {
        match seen {
            Seen::Same | Seen::Changed => (None, false),
            Seen::NewDir(id) => (Some(id), false),
            Seen::Gone(gone) => {
                self.forget(&gone, watch);
                (None, !gone.is_empty())
            }
            Seen::Replaced { gone, new } => {
                self.forget(&gone, watch);
                (new, true)
            }
        }
    }

    /// These directories vanished; their watches end, unless they moved on with the directory.
    pub fn forget(&mut self, gone: &[DirId], watch: Option<&Watch>) {
        for &dir in gone {
            if let (Some(wd), Some(watch)) = (self.places.forget(dir), watch) {
                watch.remove(wd);
            }
        }
    }

    /// Whether no watch may be added; the directory at `path` may keep its own.
    pub fn is_full(&mut self, path: &[u8], max: usize) -> bool {
        let full = self.places.watched() >= max;
        let full = full && self.index.find(path).is_none_or(|dir| self.places.wd(dir).is_none());
        if full {
            self.limited();
        }
        full
    }

    pub fn limited(&mut self) {
        const NAME: &str = "fs.inotify.max_user_watches";
        if std::mem::replace(&mut self.limited, true) {
            return;
        }
        let limit = self.watches_limit;
        let raise = (2 * limit.max(self.index.dirs())).next_power_of_two().max(1 << 19);
        self.notice = format!(
            "no more directories can be watched ({NAME} = {limit}); the others are read by every sync: raise the limit \
             with: sudo sysctl {NAME}={raise}"
        );
    }

    pub fn remember_hash(&mut self, dir: &[u8], name: &[u8], stat: &Stat, hash: [u8; 32]) {
        let step = CLOCK_STEP.max(Duration::from_nanos(self.granule.into()));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let changed = Duration::new(stat.ctime.0.try_into().unwrap_or(0), stat.ctime.1.min(999_999_999));
        if changed + step < now {
            self.index.set_hash(dir, name, stat, hash);
        }
    }
}

fn watches_limit() -> usize {
    let text = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_watches").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}
