//! A look, at every refresh, at some of the files that no event tells of.
//!
//! A file that is given a name outside the root after it was looked at raises no event on any directory, nor do writes
//! through that name. So each refresh looks at a stretch of the index, and the next one goes on behind it: a tree of a
//! few thousand files is always known, in a larger one such a write is found after so many syncs. Nothing is looked at
//! while nothing is synced.

use std::collections::HashSet;

use crate::beneath::{self, Root, join, lock};
use crate::list::REGULAR;

use super::Tree;
use super::dir::{DirId, Stat};
use super::index::Index;

/// Where the next stretch begins: a place in the slab of directories, and one in the directory's table.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor {
    dir: DirId,
    at: usize,
}

/// Files of one directory, as they are known.
struct Stretch {
    path: Vec<u8>,
    files: Vec<(Box<[u8]>, Stat)>,
}

impl Index {
    /// The next `most` files with one name, from the cursor on, at most once around.
    fn stretch(&self, cursor: &mut Cursor, mut most: usize) -> Vec<Stretch> {
        let mut found = Vec::new();
        for _ in 0..=self.dirs.len() {
            if let Some(dir) = self.dir(cursor.dir) {
                let rest = dir.records.get(cursor.at..).unwrap_or_default();
                let seen = rest.len().min(most);
                let files = rest[..seen].iter().filter_map(|record| {
                    let stat = record.stat()?;
                    let known = stat.kind == REGULAR && !stat.linked && stat.ino != 0;
                    known.then(|| (dir.name_of(record).into(), stat))
                });
                let files: Vec<_> = files.collect();
                if let Some(path) = self.path(cursor.dir).filter(|_| !files.is_empty()) {
                    found.push(Stretch { path, files });
                }
                most -= seen;
                cursor.at += seen;
                if seen < rest.len() {
                    break;
                }
            }
            cursor.at = 0;
            cursor.dir += 1;
            if cursor.dir as usize >= self.dirs.len() {
                cursor.dir = Self::ROOT;
            }
            if most == 0 {
                break;
            }
        }
        found
    }
}

impl Tree {
    /// Files of the next stretch, of `most`, that are not as they are known: a microsecond for each.
    pub(super) fn sweep(&self, root: &Root, cursor: &mut Cursor, most: usize) -> Vec<Vec<u8>> {
        let stretches = lock(&self.state).index.stretch(cursor, most);
        let mut other = Vec::new();
        let mut seen = HashSet::new();
        for stretch in stretches {
            // A small tree may come around to where it began.
            if !seen.insert(stretch.path.clone()) {
                continue;
            }
            // That a directory went or cannot be opened any more, an event tells.
            let Ok(fd) = root.open_dir(&stretch.path) else {
                continue;
            };
            for (name, known) in &stretch.files {
                let same = beneath::stat_at(&fd, name).is_ok_and(|meta| {
                    let now = Stat::from(&meta);
                    now.ctime == known.ctime && now.ino == known.ino && now.linked == known.linked
                });
                if !same {
                    other.push(join(&stretch.path, name));
                }
            }
            self.count(stretch.files.len() + 1);
        }
        other
    }
}
