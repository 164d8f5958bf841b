//! Which of the listed names are names of one file: its content is sent once.

use std::collections::{HashMap, HashSet};

use crate::list::Chunk;
use crate::walk::Linked;

/// Files with several names, while some of these are to be listed yet; numbered in the list's order.
#[derive(Default)]
pub struct Groups {
    open: HashMap<(u64, u64), Group>,
    next: u32,
    /// A name may be listed more than once: how many were listed does not tell whether all were.
    repeats: bool,
}

struct Group {
    number: u32,
    kind: u8,
    listed: u64,
    names: u64,
    /// It was looked for its other names.
    sought: bool,
}

impl Groups {
    /// For a list that names no entry twice, or one that may.
    pub fn new(repeats: bool) -> Self {
        Self {
            repeats,
            ..Self::default()
        }
    }

    /// Every name is listed again.
    pub fn again(&mut self) {
        self.open.clear();
    }

    /// Inodes of those that have names which are not listed, as far as these were not taken before.
    pub fn take_open(&mut self) -> HashSet<u64> {
        let open = self.open.iter_mut();
        let open = open.filter(|(_, group)| group.listed < group.names && !group.sought);
        open.map(|(&(_, inode), group)| {
            group.sought = true;
            inode
        })
        .collect()
    }

    /// The number of the group that the next listed name is of, an entry of this type.
    pub fn number(&mut self, kind: u8, (inode, names): Linked) -> u32 {
        let next = self.next;
        let fresh = || Group {
            number: next,
            kind,
            listed: 0,
            names,
            sought: false,
        };
        let group = self.open.entry(inode).or_insert_with(fresh);
        if group.kind != kind {
            *group = fresh();
        }
        let number = group.number;
        group.listed += 1;
        if group.listed >= names && !self.repeats {
            self.open.remove(&inode);
        }
        self.next += u32::from(number == next);
        number
    }
}

/// Follows the list, to tell a group's first name from the others.
#[derive(Default)]
pub struct Firsts {
    seen: u32,
}

impl Firsts {
    /// The entries of the next chunk that are not the first of their group.
    pub fn others(&mut self, chunk: &Chunk) -> Vec<u32> {
        let mut others = Vec::new();
        for &(i, group) in chunk.links() {
            if group < self.seen {
                others.push(i);
            } else {
                self.seen = group + 1;
            }
        }
        others
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::{REGULAR, SYMLINK};

    #[test]
    fn names_of_one_file_share_a_number_and_numbers_have_no_gaps() {
        let mut groups = Groups::default();
        let listed = [(7, 2), (8, 3), (7, 2), (8, 3), (9, 2), (7, 2), (8, 3)];
        let numbers = listed.map(|(inode, names)| groups.number(REGULAR, ((1, inode), names)));
        // Once all names of 7 were listed, another file has its inode.
        assert_eq!(numbers, [0, 1, 0, 1, 2, 3, 1]);
        assert_eq!(groups.open.len(), 2);
    }

    #[test]
    fn a_list_that_repeats_names_keeps_its_groups() {
        let mut groups = Groups::new(true);
        let listed = [(7, 2), (7, 2), (7, 2), (8, 2)];
        let numbers = listed.map(|(inode, names)| groups.number(REGULAR, ((1, inode), names)));
        assert_eq!(numbers, [0, 0, 0, 1]);
        // The inode of a file that is gone may be another one's, of another type.
        assert_eq!(groups.number(SYMLINK, ((1, 8), 2)), 2);
        assert_eq!(groups.take_open(), HashSet::from([8]));
        assert_eq!(groups.take_open(), HashSet::new());
        groups.again();
        assert_eq!(groups.number(REGULAR, ((1, 7), 2)), 3);
    }
}
