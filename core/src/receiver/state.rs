//! What is known of a chunk while something of it is still wanted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::beneath::lock;
use crate::list::Chunk;

/// What became of a wanted entry's place at the destination when it was compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Nothing was there.
    Absent,
    /// A file, a symlink or a special file: one rename replaces it.
    File,
    /// A directory that may be replaced.
    Directory,
    /// It was not asked for, but comes nevertheless, as everything does when the root was empty: it is dropped.
    Nowhere,
}

/// A compared chunk with wanted entries.
pub struct Pending {
    pub n: u32,
    pub chunk: Chunk,
    /// For each group, its directory's mark (`Dir::touched`).
    touched: Vec<Arc<AtomicBool>>,
    wants: Mutex<Wants>,
}

struct Wants {
    /// For each entry what stood in its place; None: it is not wanted (any more).
    places: Vec<Option<Place>>,
    /// How many are not settled.
    left: u64,
}

impl Pending {
    /// `wanted` are the wanted entries' indexes with what stood in their places.
    pub fn new(n: u32, chunk: Chunk, touched: Vec<Arc<AtomicBool>>, wanted: &[(u32, Place)]) -> Self {
        let mut places = vec![None; chunk.entries()];
        for &(i, place) in wanted {
            places[i as usize] = Some(place);
        }
        let left = wanted.len() as u64;
        Self {
            n,
            chunk,
            touched,
            wants: Mutex::new(Wants { places, left }),
        }
    }

    /// What stood in the place of entry `i`; None when it is not wanted (any more), or not there at all.
    pub fn wanted(&self, i: u32) -> Option<Place> {
        lock(&self.wants).places.get(i as usize).copied().flatten()
    }

    /// Takes entry `i` off the wanted ones, so that nobody else applies it; what stood in its place.
    pub fn claim(&self, i: u32) -> Option<Place> {
        lock(&self.wants).places.get_mut(i as usize).and_then(Option::take)
    }

    /// A claimed entry was dealt with. True when it was the chunk's last.
    pub fn settle(&self) -> bool {
        let mut wants = lock(&self.wants);
        wants.left -= 1;
        wants.left == 0
    }

    /// The directory path and the entry of `i`, which is in range: it was wanted.
    pub fn entry(&self, i: u32) -> (&[u8], crate::list::Entry<'_>) {
        (self.chunk.path(self.chunk.group_of(i)), self.chunk.entry(i))
    }

    /// Notes that something in entry `i`'s directory was changed.
    pub fn touch(&self, i: u32) {
        let at = self.chunk.groups().partition_point(|g| g.start + g.entries <= i);
        self.touched[at].store(true, Ordering::Release);
    }
}
