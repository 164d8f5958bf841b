//! What is wanted, in order, on its way to the readers; and what they read, on its way out.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::beneath::lock;
use crate::list::{self, Chunk};
use crate::piece;
use crate::record;

use super::Violation;
use super::basis::Rebuild;
use super::large::{Large, Next};

/// Batches grow from this size, so that the first file arrives early,
const TARGET_MIN: usize = 64 << 10;
/// to this one, where a batch's fixed costs are no longer felt.
const TARGET_MAX: usize = 1 << 20;
/// Readers wait while so many bytes wait to be taken.
const OUT_MAX: usize = 8 << 20;

/// Wanted files of one chunk that are sent together, or one large file.
pub struct Batch {
    /// The chunk's number.
    pub n: u32,
    /// The chunk.
    pub chunk: Arc<Chunk>,
    /// Entries in it, ascending.
    pub files: Vec<u32>,
    /// Bytes to expect, headers included.
    pub expected: usize,
}

impl Batch {
    /// One file by itself.
    pub fn one(n: u32, chunk: Arc<Chunk>, index: u32) -> Self {
        Self {
            n,
            chunk,
            files: vec![index],
            expected: record::HEADER,
        }
    }
}

/// What a reader does next.
pub enum Work {
    /// Reads whole files.
    Batch(Batch),
    /// Reads some pieces of a large file, in order.
    Pieces(Arc<Large>, Range<u32>),
    /// Sends a file as its difference from a basis.
    Rebuild(Box<Rebuild>),
}

/// The queue of one session.
pub struct Queue {
    state: Mutex<State>,
    work: Condvar,
    batch_max: usize,
}

struct State {
    jobs: VecDeque<Job>,
    rebuilds: VecDeque<Box<Rebuild>>,
    large: VecDeque<Arc<Large>>,
    target: usize,
    /// Wanted files of each chunk that did not go out yet.
    open: HashMap<u32, u32>,
    out: VecDeque<Vec<u8>>,
    out_bytes: usize,
    sent: u64,
    grant: u64,
    /// How many readers there are, and how many of them have nothing to do.
    readers: usize,
    idle: usize,
    stopped: bool,
}

/// What is wanted of a chunk and needs no basis.
struct Job {
    n: u32,
    chunk: Arc<Chunk>,
    files: Vec<u32>,
    next: usize,
}

impl Queue {
    /// Nothing wanted yet. No batch is larger than `batch_max`, but for a record that is by itself.
    pub fn new(batch_max: usize, grant: u64) -> Self {
        Self {
            state: Mutex::new(State {
                jobs: VecDeque::new(),
                rebuilds: VecDeque::new(),
                large: VecDeque::new(),
                target: TARGET_MIN.min(batch_max),
                open: HashMap::new(),
                out: VecDeque::new(),
                out_bytes: 0,
                sent: 0,
                grant,
                readers: 0,
                idle: 0,
                stopped: false,
            }),
            work: Condvar::new(),
            batch_max,
        }
    }

    /// The largest batch.
    pub fn batch_max(&self) -> usize {
        self.batch_max
    }

    /// `files` of chunk `n` are to be sent whole, and `later` others when their basis has come.
    pub fn want(&self, n: u32, chunk: Arc<Chunk>, files: Vec<u32>, later: u32) {
        let mut state = lock(&self.state);
        let open = files.len() as u32 + later;
        if open > 0 {
            *state.open.entry(n).or_insert(0) += open;
        }
        if files.is_empty() {
            return;
        }
        state.jobs.push_back(Job {
            n,
            chunk,
            files,
            next: 0,
        });
        drop(state);
        self.work.notify_all();
    }

    /// A file's basis is here, or enough of it.
    pub fn rebuild(&self, rebuild: Box<Rebuild>) {
        lock(&self.state).rebuilds.push_back(rebuild);
        self.work.notify_all();
    }

    /// The pieces of a large file are there for every reader.
    pub fn share(&self, large: Arc<Large>) {
        lock(&self.state).large.push_back(large);
        self.work.notify_all();
    }

    /// A large file that was waited for may go on.
    pub fn look_again(&self) {
        let _state = lock(&self.state);
        self.work.notify_all();
    }

    /// The next thing to do; waits for it. None: stopped.
    pub fn take(&self) -> Option<Work> {
        let mut state = lock(&self.state);
        loop {
            if state.stopped {
                return None;
            }
            if state.out_bytes < OUT_MAX
                && let Some(work) = state.next_work(self.batch_max)
            {
                return Some(work);
            }
            state.idle += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    /// Whether the link has taken all that was read while more waits to be read, and one more reader may be started; it
    /// then counts as one.
    pub fn is_short_handed(&self, readers_max: usize) -> bool {
        let mut state = lock(&self.state);
        let waiting = !(state.jobs.is_empty() && state.rebuilds.is_empty() && state.large.is_empty());
        let short = waiting && state.out.is_empty() && state.idle == 0 && state.readers < readers_max;
        state.readers += usize::from(short);
        short
    }

    /// A batch is ready to go out; with it, `resolved` files of chunk `n` have gone out.
    pub fn emit(&self, n: u32, payload: Vec<u8>, resolved: u32) {
        let mut state = lock(&self.state);
        if let Some(open) = state.open.get_mut(&n) {
            *open -= resolved.min(*open);
            if *open == 0 {
                state.open.remove(&n);
            }
        }
        if !payload.is_empty() {
            state.out_bytes += payload.len();
            state.out.push_back(payload);
        }
    }

    /// The next batch; none while the window is used up. `idle` is called, under the lock, when there is none.
    pub fn next(&self, idle: impl FnOnce()) -> Option<Vec<u8>> {
        let mut state = lock(&self.state);
        if state.sent < state.grant
            && let Some(payload) = state.out.pop_front()
        {
            state.sent += payload.len() as u64;
            let full = state.out_bytes >= OUT_MAX;
            state.out_bytes -= payload.len();
            let room = full && state.out_bytes < OUT_MAX;
            drop(state);
            if room {
                self.work.notify_all();
            }
            return Some(payload);
        }
        idle();
        None
    }

    /// Raises the grant; a lower one changes nothing. Whether something may be taken now.
    pub fn grant(&self, grant: u64) -> bool {
        let mut state = lock(&self.state);
        state.grant = state.grant.max(grant);
        state.sent < state.grant && !state.out.is_empty()
    }

    /// Whether files of chunk `n` are still to go out.
    pub fn is_open(&self, n: u32) -> bool {
        lock(&self.state).open.contains_key(&n)
    }

    /// Payload bytes taken so far.
    pub fn sent(&self) -> u64 {
        lock(&self.state).sent
    }

    /// Lets the readers end.
    pub fn stop(&self) {
        let mut state = lock(&self.state);
        state.stopped = true;
        state.out.clear();
        drop(state);
        self.work.notify_all();
    }
}

impl State {
    fn next_work(&mut self, batch_max: usize) -> Option<Work> {
        let mut at = 0;
        while let Some(large) = self.large.get(at) {
            match large.next() {
                Next::Pieces(pieces) => return Some(Work::Pieces(Arc::clone(large), pieces)),
                Next::Later => at += 1,
                Next::Nothing => drop(self.large.remove(at)),
            }
        }
        if let Some(rebuild) = self.rebuilds.pop_front() {
            return Some(Work::Rebuild(rebuild));
        }
        while let Some(job) = self.jobs.front_mut() {
            if let Some(batch) = job.next_batch(self.target) {
                self.target = (self.target * 2).min(TARGET_MAX).min(batch_max);
                return Some(Work::Batch(batch));
            }
            self.jobs.pop_front();
        }
        None
    }
}

impl Job {
    /// Files up to `target` bytes, at least one; a large one by itself.
    fn next_batch(&mut self, target: usize) -> Option<Batch> {
        let mut files = Vec::new();
        let mut expected = 0;
        while let Some(&index) = self.files.get(self.next) {
            let size = self.chunk.entry(index).size;
            let large = size > piece::PIECE as u64;
            let cost = record::HEADER + if large { 0 } else { size as usize };
            if !files.is_empty() && (large || expected + cost > target) {
                break;
            }
            self.next += 1;
            expected += cost;
            files.push(index);
            if large {
                break;
            }
        }
        if files.is_empty() {
            return None;
        }
        Some(Batch {
            n: self.n,
            chunk: Arc::clone(&self.chunk),
            files,
            expected,
        })
    }
}

/// The entries of `chunk` whose bits are set in `bitmap`; each must be a regular file.
pub fn wanted_untrusted(chunk: &Chunk, bitmap: &[u8]) -> Result<Vec<u32>, Violation> {
    let mut files = Vec::new();
    for (at, &byte) in bitmap.iter().enumerate() {
        let mut bits = byte;
        while bits != 0 {
            let index = at * 8 + bits.trailing_zeros() as usize;
            bits &= bits - 1;
            if index >= chunk.entries() || chunk.entry(index as u32).kind != list::REGULAR {
                return Err("a WANT for what is not a regular file of the list");
            }
            files.push(index as u32);
        }
    }
    Ok(files)
}
