//! What is known of a chunk while something of it is still wanted.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::Shared;
use super::fresh::Fresh;
use crate::beneath::{Meta, lock};
use crate::list::Chunk;

/// What stood at a place when it was compared, as far as a change of it shows: type, size, mtime, ctime and inode, hashed.
///
/// A file with several names is without its ctime: that moves with each name that we take or give.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Seen(u64);

impl Seen {
    /// What stands there now.
    pub fn new(meta: &Meta) -> Self {
        Self::of(meta, meta.links == 1)
    }

    /// Whether it is still what stands there.
    pub fn fits(self, meta: &Meta) -> bool {
        self == Self::of(meta, true) || self == Self::of(meta, false)
    }

    fn of(meta: &Meta, alone: bool) -> Self {
        let mut hasher = DefaultHasher::new();
        let ctime = alone.then_some(meta.ctime);
        (meta.kind, meta.size, meta.mtime_s, meta.mtime_ns, meta.id, ctime).hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// What became of a wanted entry's place at the destination when it was compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Nothing was there.
    Absent,
    /// A file, a symlink or a special file: one rename replaces it.
    File(Seen),
    /// A directory that may be replaced.
    Directory,
    /// A file or symlink that someone else changed: it is kept under another name.
    Kept,
    /// It was not asked for, but comes nevertheless, as everything does when the root was empty: it is dropped.
    Nowhere,
}

/// Where the files of a group go.
#[derive(Default)]
pub struct Home {
    /// Its directory's mark (`Dir::touched`).
    pub touched: Arc<AtomicBool>,
    /// Its directory, while that has no name.
    pub fresh: Option<Arc<Fresh>>,
}

/// A compared chunk with wanted entries.
pub struct Pending {
    pub n: u32,
    pub chunk: Chunk,
    /// One for each group.
    pub homes: Vec<Home>,
    wants: Mutex<Wants>,
}

struct Wants {
    /// For each entry what stood in its place; None: it is not wanted (any more).
    places: Vec<Option<Place>>,
    /// How many are not settled.
    left: u64,
    /// Those that were asked for once more.
    again: Vec<u32>,
}

impl Pending {
    /// `wanted` are the wanted entries' indexes with what stood in their places; so many others wait to be linked.
    pub fn new(n: u32, chunk: Chunk, homes: Vec<Home>, wanted: &[(u32, Place)], followers: u64) -> Self {
        let mut places = vec![None; chunk.entries()];
        for &(i, place) in wanted {
            places[i as usize] = Some(place);
        }
        let left = wanted.len() as u64 + followers;
        Self {
            n,
            chunk,
            homes,
            wants: Mutex::new(Wants {
                places,
                left,
                again: Vec::new(),
            }),
        }
    }

    /// What stood in the place of entry `i`; None when it is not wanted (any more), or not there at all.
    pub fn wanted(&self, i: u32) -> Option<Place> {
        lock(&self.wants).places.get(i as usize).copied().flatten()
    }

    /// Entry `i`, which was to be linked, is wanted after all.
    pub fn want(&self, i: u32, place: Place) {
        lock(&self.wants).places[i as usize] = Some(place);
    }

    /// Takes entry `i` off the wanted ones, so that nobody else applies it; what stood in its place.
    pub fn claim(&self, i: u32) -> Option<Place> {
        lock(&self.wants).places.get_mut(i as usize).and_then(Option::take)
    }

    /// Makes entry `i`, which the caller has claimed, a wanted one again. False, and it stays claimed: the second time.
    pub fn again(&self, i: u32, place: Place) -> bool {
        let mut wants = lock(&self.wants);
        let first = !wants.again.contains(&i);
        if first {
            wants.again.push(i);
            wants.places[i as usize] = Some(place);
        }
        first
    }

    /// So many claimed entries were dealt with. True when these were the chunk's last.
    pub fn settle(&self, count: u64) -> bool {
        let mut wants = lock(&self.wants);
        wants.left -= count;
        wants.left == 0
    }

    /// The directory path and the entry of `i`, which is in range: it was wanted.
    pub fn entry(&self, i: u32) -> (&[u8], crate::list::Entry<'_>) {
        (self.chunk.path(self.chunk.group_of(i)), self.chunk.entry(i))
    }

    fn home(&self, i: u32) -> &Home {
        &self.homes[self.chunk.groups().partition_point(|g| g.start + g.entries <= i)]
    }

    /// Notes that something in entry `i`'s directory was changed.
    pub fn touch(&self, i: u32) {
        self.home(i).touched.store(true, Ordering::Release);
    }

    /// The directory of entry `i`, when it has no name yet.
    pub fn fresh(&self, i: u32) -> Option<&Arc<Fresh>> {
        self.home(i).fresh.as_ref().filter(|fresh| !fresh.is_named())
    }

    /// The handle of entry `i`'s directory.
    pub fn dir(&self, shared: &Shared, i: u32) -> io::Result<Arc<OwnedFd>> {
        match self.fresh(i) {
            Some(fresh) => fresh.dir(shared),
            None => shared.handles()?.dir(self.entry(i).0),
        }
    }
}
