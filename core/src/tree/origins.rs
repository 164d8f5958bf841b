//! Where something that has a new name was before: names that went, by inode.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;

use super::Tree;
use super::index::Index;
use crate::beneath::{join, lock};

/// Names that are remembered for one list.
const ORIGINS_MAX: usize = 100_000;

/// A name that went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// What it was.
    pub path: Box<[u8]>,
    /// The change time, seconds and nanoseconds, with which its inode was seen last. An inode that was born later is
    /// another one, whatever its number.
    pub ctime: (i64, u32),
    tick: u64,
}

/// Names that went, by inode.
pub type Origins = HashMap<u64, Origin>;

impl Index {
    /// Names that are gone since a tick and have not come back. Of several that one inode had, the one that went first:
    /// it is the one that was there at the tick. What was in a directory when that went is not among them.
    pub fn origins(&self, since: u64) -> Origins {
        let mut origins = Origins::new();
        let mut open = vec![Self::ROOT];
        while let Some(id) = open.pop() {
            let Some(dir) = self.dir(id).filter(|d| d.newest > since) else {
                continue;
            };
            open.extend(dir.records.iter().filter_map(|record| record.child()));
            let gone = |r: &&super::dir::Record| r.is_tombstone() && r.tick > since && r.ino != 0;
            for record in dir.records.iter().filter(gone) {
                let Some(path) = self.path(id) else { break };
                let origin = Origin {
                    path: join(&path, dir.name_of(record)).into(),
                    ctime: (record.ctime_s, record.ctime_ns),
                    tick: record.tick,
                };
                match origins.entry(record.ino) {
                    Slot::Vacant(slot) => {
                        slot.insert(origin);
                    }
                    Slot::Occupied(mut slot) if slot.get().tick > origin.tick => {
                        slot.insert(origin);
                    }
                    Slot::Occupied(_) => {}
                }
                if origins.len() == ORIGINS_MAX {
                    return origins;
                }
            }
        }
        origins
    }
}

impl Tree {
    /// See `Index::origins`.
    pub fn origins(&self, since: u64) -> Origins {
        lock(&self.state).index.origins(since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::{DIRECTORY, REGULAR};
    use crate::tree::dir::{Expected, Stat};
    use crate::tree::index::Seen;

    fn stat(kind: u8, ino: u64) -> Stat {
        Stat {
            kind,
            mode: 0o644,
            size: 0,
            mtime: (1, 0),
            ctime: (ino as i64, 5),
            ino,
            linked: false,
            uid: 0,
            gid: 0,
        }
    }

    fn seen(index: &Index, since: u64) -> Vec<(u64, String, i64)> {
        let all = index.origins(since);
        let mut all: Vec<_> = all
            .iter()
            .map(|(ino, o)| (*ino, String::from_utf8_lossy(&o.path).into_owned(), o.ctime.0))
            .collect();
        all.sort();
        all
    }

    #[test]
    fn what_went_is_found_by_its_inode() {
        let mut index = Index::new();
        let Seen::NewDir(dir) = index.look(Index::ROOT, b"d", Some(stat(DIRECTORY, 7)), 1) else {
            panic!("a directory");
        };
        index.look(dir, b"a", Some(stat(REGULAR, 8)), 1);
        index.look(dir, b"b", Some(stat(REGULAR, 9)), 1);
        index.look(Index::ROOT, b"c", Some(stat(REGULAR, 10)), 1);
        let since = index.tick();
        assert_eq!(seen(&index, since), []);

        // a -> x -> y: it was a when it was agreed.
        index.look(dir, b"a", None, 1);
        index.look(dir, b"x", Some(stat(REGULAR, 8)), 1);
        index.look(dir, b"x", None, 1);
        index.look(dir, b"y", Some(stat(REGULAR, 8)), 1);
        index.look(Index::ROOT, b"c", None, 1);
        assert_eq!(seen(&index, since), [(8, "d/a".into(), 8), (10, "c".into(), 10)]);
        // A name that is there again is no origin; what is older than asked for neither.
        index.look(Index::ROOT, b"c", Some(stat(REGULAR, 11)), 1);
        assert_eq!(seen(&index, since), [(8, "d/a".into(), 8)]);
        assert_eq!(seen(&index, index.tick()), []);

        let mut saved = Vec::new();
        index.save(&mut saved, b"").expect("saved");
        assert_eq!(
            seen(&Index::load(&saved).expect("loaded").0, since),
            seen(&index, since)
        );

        // A directory is found itself, what was in it is not.
        index.look(Index::ROOT, b"d", None, 1);
        assert_eq!(seen(&index, since), [(7, "d".into(), 7)]);
    }

    #[test]
    fn what_a_session_removed_is_an_origin_for_the_next_peer() {
        let mut index = Index::new();
        index.look(Index::ROOT, b"a", Some(stat(REGULAR, 8)), 1);
        let since = index.tick();
        let gone = Expected {
            kind: crate::list::GONE,
            mode: 0,
            size: 0,
            mtime: (0, 0),
        };
        index.expect(b"", &mut [(&b"a"[..], gone)].into_iter(), crate::tree::Rest::Unsaid, 1);
        assert_eq!(seen(&index, since), [], "not before a look has shown it");
        index.look(Index::ROOT, b"a", None, 1);
        assert_eq!(seen(&index, since), [(8, "a".into(), 8)]);
    }
}
