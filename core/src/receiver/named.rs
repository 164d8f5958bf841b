//! Groups of single names: their directory is not read, each of them is looked at by itself.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use super::compare::Generator;
use super::dirs::{Dir, Dirs, Here};
use super::entries::At;
use super::problem;
use crate::beneath::{self, lock, split};
use crate::list::Entry;
use crate::temp::{self, Kind};

/// Partials that files of this session go on with, which were looked for by name.
pub type Taken = HashSet<Vec<u8>>;

impl Generator<'_> {
    /// Makes sure that names of a directory can be looked at.
    pub(super) fn reach_named(&self, dir: &mut Dir) {
        if dir.here == Here::Existing
            && let Err(e) = self.reach(dir)
        {
            dir.here = Here::Blocked;
            self.shared.trouble(problem::WRITE, &dir.path, &e);
        }
    }

    /// A name that the source does not have. What is here is extra, and goes with what else is extra.
    pub(super) fn gone(&self, dirs: &mut Dirs, entry: &Entry<'_>, at: &At<'_>) {
        if at.meta.is_some() && self.shared.options.delete {
            dirs.list[at.dir as usize].unlisted.insert(entry.name.into());
            dirs.retract(&at.path);
        }
    }

    /// The partial of a large file in a directory that is not read otherwise. Of several the first that is found is used.
    pub(super) fn search(&self, dirs: &mut Dirs, entry: &Entry<'_>, at: &At<'_>) -> Option<Vec<u8>> {
        let shared = self.shared;
        let stem = temp::stem(entry.name);
        // The partials of names that differ behind their stem cannot be told apart here.
        if shared.options.dry_run || stem.len() < entry.name.len() {
            return None;
        }
        let fd = shared.handles().and_then(|h| h.own(split(&at.path).0)).ok()?;
        let mut found = Vec::new();
        let read = beneath::each_name(&fd, |name| {
            if matches!(shared.namer.own(name), Some((Kind::Temp, of)) if of == stem) && !shared.namer.made(name) {
                found.push(name.to_vec());
            }
        });
        let mut taken = lock(&shared.taken);
        found.retain(|name| !taken.contains(name) && matches!(shared.namer.own_in(&fd, name), Some((Kind::Temp, _))));
        let used = found.pop().filter(|_| read.is_ok())?;
        for older in found {
            let _ = shared.in_dir(&fd, || beneath::unlink_at(&fd, &older));
        }
        dirs.list[at.dir as usize].touched.store(true, Ordering::Release);
        taken.insert(used.clone());
        Some(used)
    }
}
