//! Names by inode: a list that names one of a file's several names is to name the others.

use std::collections::HashSet;

use super::Tree;
use super::index::Index;
use crate::beneath::{join, lock};
use crate::list::DIRECTORY;

impl Index {
    /// The paths of all entries but directories that have one of these inodes; visits every entry.
    pub fn names_of(&self, inodes: &HashSet<u64>) -> Vec<Vec<u8>> {
        let mut paths = Vec::new();
        for (id, dir) in (0..).zip(&self.dirs) {
            let Some(dir) = dir else { continue };
            for record in &dir.records {
                let named = !record.is_gone() && record.kind() != DIRECTORY && inodes.contains(&record.ino);
                if named && let Some(parent) = self.path(id) {
                    paths.push(join(&parent, dir.name_of(record)));
                }
            }
        }
        paths
    }
}

impl Tree {
    /// See `Index::names_of`.
    pub fn names_of(&self, inodes: &HashSet<u64>) -> Vec<Vec<u8>> {
        lock(&self.state).index.names_of(inodes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::REGULAR;
    use crate::tree::dir::Stat;
    use crate::tree::index::Seen;

    #[test]
    fn all_names_of_a_file_are_found() {
        let mut index = Index::new();
        let stat = |kind, ino| Stat {
            kind,
            mode: 0o644,
            size: 0,
            mtime: (1, 0),
            ctime: (1, 0),
            ino,
            linked: false,
            uid: 0,
            gid: 0,
        };
        let Seen::NewDir(below) = index.look(Index::ROOT, b"d", Some(stat(DIRECTORY, 7)), 1) else {
            panic!("a directory");
        };
        for (dir, name, ino) in [
            (Index::ROOT, b"a", 7),
            (below, b"b", 7),
            (below, b"c", 8),
            (below, b"e", 7),
        ] {
            index.look(dir, name, Some(stat(REGULAR, ino)), 1);
        }
        index.look(below, b"e", None, 1);
        assert_eq!(index.names_of(&HashSet::from([7])), [&b"a"[..], b"d/b"]);
    }
}
