//! Files on their way to disk: those that wait for their names, and those that have them and wait to be told of.
//!
//! One sync serves both: it makes durable what the batch before it renamed, and what this one wrote. While it runs, the
//! next batch is written.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::durable::Fsync;
use super::fresh::Fresh;
use super::state::{Pending, Place};

/// A batch is synced when it has so many files, so many bytes, or is so old.
const FILES: u64 = 1_000;
const BYTES: u64 = 64 << 20;
const AGE: Duration = Duration::from_secs(2);
/// The same when all that is wanted so far is in it: more of the list may be on its way.
const PAUSE: Duration = Duration::from_millis(50);
/// So many batches' worth may wait while one is synced.
const AHEAD: u64 = 8;

/// Something that was written and has no name yet.
pub struct Staged {
    pub pending: Arc<Pending>,
    pub what: Written,
    /// `Durable::failures` when it was begun.
    pub born: u64,
}

/// What was written.
pub enum Written {
    /// Entry, bytes, where it goes, and its name until then.
    File(u32, u64, Place, Vec<u8>),
    /// A directory with so many entries and bytes.
    Fresh(Arc<Fresh>, u64, u64),
}

impl Written {
    /// Entries and bytes.
    fn size(&self) -> (u64, u64) {
        match self {
            Self::File(_, bytes, ..) => (1, *bytes),
            Self::Fresh(_, entries, bytes) => (*entries, *bytes),
        }
    }
}

/// Something that has its name.
pub struct Placed {
    pub pending: Arc<Pending>,
    pub what: Named,
}

/// What has it.
pub enum Named {
    /// Entry, bytes, whether it is new.
    File(u32, u64, bool),
    /// A directory with so many entries.
    Fresh(Arc<Fresh>, u64),
    /// An entry that is one more name of another.
    Link(u32),
}

/// What a session has of both.
pub struct Batch {
    mode: Fsync,
    staged: Vec<Staged>,
    placed: Vec<Placed>,
    /// Of what is staged.
    entries: u64,
    bytes: u64,
    /// Since when there is any.
    since: Option<Instant>,
    /// Entries that wait for one that is staged, to be linked to it.
    pub waiting: u64,
    /// Someone syncs what was taken.
    pub committing: bool,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            mode: Fsync::Batch,
            staged: Vec::new(),
            placed: Vec::new(),
            entries: 0,
            bytes: 0,
            since: None,
            waiting: 0,
            committing: false,
        }
    }
}

impl Batch {
    /// One more that was written.
    pub fn stage(&mut self, staged: Staged, mode: Fsync) {
        let (entries, bytes) = staged.what.size();
        self.mode = mode;
        self.entries += entries;
        self.bytes += bytes;
        self.staged.push(staged);
        self.since.get_or_insert_with(Instant::now);
    }

    /// More that have their names.
    pub fn place(&mut self, placed: Vec<Placed>) {
        if !placed.is_empty() {
            self.placed.extend(placed);
            self.since.get_or_insert_with(Instant::now);
        }
    }

    /// Whether something waits to be given its name.
    pub fn is_staged(&self) -> bool {
        !self.staged.is_empty()
    }

    /// All there is, to be synced.
    pub fn take(&mut self) -> (Vec<Staged>, Vec<Placed>) {
        (self.entries, self.bytes, self.since) = (0, 0, None);
        (std::mem::take(&mut self.staged), std::mem::take(&mut self.placed))
    }

    fn limit(&self) -> u64 {
        match self.mode {
            Fsync::Always => 1,
            _ => FILES,
        }
    }

    /// Whether nothing more is to be written before the sync that runs has ended.
    pub fn is_overfull(&self) -> bool {
        self.committing && (self.entries >= AHEAD * self.limit() || self.bytes >= AHEAD * BYTES)
    }

    /// When it is to be synced. `outstanding` entries are not in their places yet; with `last`, no more are to come
    /// before these are.
    pub fn due(&self, outstanding: u64, last: bool) -> Option<Instant> {
        let since = self.since.filter(|_| !self.committing)?;
        let under_way = outstanding > self.entries + self.waiting;
        if self.entries >= self.limit() || self.bytes >= BYTES {
            Some(since)
        } else if under_way {
            Some(since + AGE)
        } else if last {
            // What has its name waits for what is done at the end, and is synced with that.
            (!self.staged.is_empty()).then_some(since)
        } else {
            Some(since + PAUSE)
        }
    }
}
