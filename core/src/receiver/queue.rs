//! The work that waits: chunks for the generator, jobs for the workers.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::basis::Signing;
use super::batch::{Batch, Placed, Staged};
use super::durable::Fsync;
use super::groups::Follower;
use crate::beneath::{self, lock};

/// Something for the generator.
pub enum Input {
    /// LIST chunk, as it came.
    Chunk(u32, Vec<u8>),
    /// LIST-END: chunks, entries, hash.
    End(u32, u64, [u8; 32]),
}

/// Something for a worker.
pub enum Job {
    /// A DATA payload.
    Data(Vec<u8>),
    /// Say what is here of a wanted file: chunk, index, and the partial of it that was found.
    Basis(u32, u32, Option<Vec<u8>>),
    /// Names to link to what their groups have.
    Links(Vec<Follower>),
    /// A stretch of a signature.
    Sign(Arc<Signing>),
    /// Sync what was written, and give it its names.
    Commit,
    /// All is applied: delete, set directory metadata, say so.
    Finish,
}

#[derive(Default)]
struct Jobs {
    inputs: VecDeque<Input>,
    data: VecDeque<Job>,
    basis: VecDeque<Job>,
    signing: VecDeque<Arc<Signing>>,
    finish: bool,
    /// DATA that came before its chunk was compared: (chunk, payload).
    parked: Vec<(u32, Vec<u8>)>,
    /// Chunks compared so far.
    compared: u32,
    /// What is on its way to disk.
    batch: Batch,
    /// Wanted entries that are not resolved, and whether the list ended.
    outstanding: u64,
    ended: bool,
    /// The generator waits until all is resolved.
    settling: bool,
    /// LIST-ENDs that came, and how many the list has.
    ends: u64,
    ends_due: u64,
    finishing: bool,
    /// How many workers there are, how many of them have nothing to do, and how many there may be.
    workers: usize,
    idle: usize,
    workers_max: usize,
    /// Bytes of signatures that were sent for files that are not resolved: the sender holds them.
    signed: u64,
    /// How many these are, continued partials included: for each a file is open here.
    bases: usize,
}

impl Jobs {
    /// When what is on its way to disk is to be synced.
    fn commit_due(&self) -> Option<Instant> {
        self.batch.due(self.outstanding, self.ended || self.settling)
    }
}

/// Queues of one receiver, under one lock: nothing here takes long.
pub struct Queue {
    jobs: Mutex<Jobs>,
    generator: Condvar,
    workers: Condvar,
}

/// Signatures that a sender holds at once, in bytes: enough for a file of 400 GB, or 5,000 of 1 MB.
const SIGNED_MAX: u64 = 64 << 20;
/// Files that are open as a basis at once: a process has as few as 1,024 handles, and not for one session alone.
const BASES_MAX: usize = 256;
/// Threads look at the stop flag at least this often, should a wake-up be lost.
const LOOK_UP: Duration = Duration::from_millis(500);

impl Queue {
    /// Queues for up to so many workers, the first of which is about to start.
    pub fn new(workers_max: usize) -> Self {
        let jobs = Jobs {
            workers: 1,
            workers_max,
            ends_due: 1,
            ..Jobs::default()
        };
        Self {
            jobs: Mutex::new(jobs),
            generator: Condvar::new(),
            workers: Condvar::new(),
        }
    }

    /// Wakes everyone, to see the stop flag.
    pub fn wake_all(&self) {
        let _jobs = lock(&self.jobs);
        self.generator.notify_all();
        self.workers.notify_all();
    }

    /// For the generator.
    pub fn input(&self, input: Input) {
        lock(&self.jobs).inputs.push_back(input);
        self.generator.notify_one();
    }

    /// For a worker: a BASIS to compute.
    pub fn basis(&self, chunk: u32, index: u32, partial: Option<Vec<u8>>) {
        lock(&self.jobs).basis.push_back(Job::Basis(chunk, index, partial));
        self.workers.notify_one();
    }

    /// For workers: a signature that is not finished, for as many as it has stretches left.
    pub fn sign(&self, signing: &Arc<Signing>, stretches: u64) {
        let mut jobs = lock(&self.jobs);
        for _ in 0..stretches.min(jobs.workers_max as u64) {
            jobs.signing.push_back(Arc::clone(signing));
            self.workers.notify_one();
        }
    }

    /// A signature that was put off may go on.
    pub fn look_again(&self) {
        let jobs = lock(&self.jobs);
        if !jobs.signing.is_empty() {
            self.workers.notify_all();
        }
    }

    /// The sender is asked for more: the list has one more LIST-END.
    pub fn look(&self) {
        lock(&self.jobs).ends_due += 1;
    }

    /// A LIST-END came. Whether it is the last.
    pub fn end(&self) -> bool {
        let mut jobs = lock(&self.jobs);
        jobs.ends += 1;
        jobs.ends == jobs.ends_due
    }

    /// For the generator: waits until all that was wanted so far is resolved. False: the session stopped.
    pub fn settle(&self, stopped: impl Fn() -> bool) -> bool {
        let mut jobs = lock(&self.jobs);
        jobs.settling = true;
        self.workers.notify_one();
        while jobs.outstanding > 0 && !stopped() {
            let waited = self.generator.wait_timeout(jobs, LOOK_UP);
            jobs = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
        jobs.settling = false;
        !stopped()
    }

    /// The session has something more to do before it is finished: `resolved` ends that.
    pub fn hold(&self) {
        lock(&self.jobs).outstanding += 1;
    }

    /// For a worker: DATA whose records refer to chunks up to `last`; it waits until that one was compared. Err when that
    /// one was never listed.
    pub fn data(&self, last: u32, payload: Vec<u8>) -> Result<(), &'static str> {
        let mut jobs = lock(&self.jobs);
        if last < jobs.compared {
            jobs.data.push_back(Job::Data(payload));
            self.workers.notify_one();
        } else if jobs.ended {
            return Err("data for a file that was not listed");
        } else {
            jobs.parked.push((last, payload));
        }
        Ok(())
    }

    /// The generator's next input; None when it is to end.
    pub fn next_input(&self, stopped: impl Fn() -> bool) -> Option<Input> {
        let mut jobs = lock(&self.jobs);
        loop {
            if stopped() {
                return None;
            }
            if let Some(input) = jobs.inputs.pop_front() {
                return Some(input);
            }
            let waited = self.generator.wait_timeout(jobs, LOOK_UP);
            jobs = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// Whether there is more to do than the workers take, and one more may be started; it then counts as one.
    pub fn is_short_handed(&self) -> bool {
        let mut jobs = lock(&self.jobs);
        let waiting = jobs.data.len() + jobs.signing.len() + jobs.basis.len() + usize::from(jobs.finish);
        let short = waiting > jobs.idle && jobs.workers < jobs.workers_max;
        jobs.workers += usize::from(short);
        short
    }

    /// A worker's next job; None when it is to end. Data first: it holds memory.
    pub fn next_job(&self, stopped: impl Fn() -> bool) -> Option<Job> {
        let mut jobs = lock(&self.jobs);
        loop {
            if stopped() {
                return None;
            }
            let commit = jobs.commit_due();
            if commit.is_some_and(|due| due <= Instant::now()) {
                jobs.batch.committing = true;
                return Some(Job::Commit);
            }
            if !jobs.batch.is_overfull()
                && let Some(job) = jobs.data.pop_front()
            {
                return Some(job);
            }
            let dues = jobs.signing.iter().map(|signing| signing.due()).enumerate();
            let due = dues.min_by_key(|(_, due)| *due);
            if let Some((at, None)) = due
                && let Some(signing) = jobs.signing.remove(at)
            {
                return Some(Job::Sign(signing));
            }
            if jobs.signed < SIGNED_MAX
                && jobs.bases < beneath::at_most(BASES_MAX)
                && let Some(job) = jobs.basis.pop_front()
            {
                return Some(job);
            }
            if !jobs.batch.committing && std::mem::take(&mut jobs.finish) {
                return Some(Job::Finish);
            }
            let until = due.and_then(|(_, due)| due).into_iter().chain(commit).min();
            let wait = until.map_or(LOOK_UP, |due| due.saturating_duration_since(Instant::now()));
            jobs.idle += 1;
            let waited = self.workers.wait_timeout(jobs, wait);
            jobs = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
            jobs.idle -= 1;
        }
    }

    /// Chunk `n` was compared and `wanted` of its entries are wanted: data for it may be applied.
    pub fn compared(&self, n: u32, wanted: u64, followers: Vec<Follower>) {
        let mut jobs = lock(&self.jobs);
        jobs.compared = n + 1;
        jobs.outstanding += wanted + followers.len() as u64;
        if !followers.is_empty() {
            // Before the data that they wait for.
            jobs.data.push_back(Job::Links(followers));
            self.workers.notify_one();
        }
        let mut i = 0;
        while i < jobs.parked.len() {
            if jobs.parked[i].0 <= n {
                let (_, payload) = jobs.parked.swap_remove(i);
                jobs.data.push_back(Job::Data(payload));
                self.workers.notify_one();
            } else {
                i += 1;
            }
        }
    }

    /// The list ended well. Err when data came for a chunk that was never listed.
    pub fn ended(&self) -> Result<(), &'static str> {
        let mut jobs = lock(&self.jobs);
        jobs.ended = true;
        if jobs.parked.is_empty() {
            self.workers.notify_one();
            self.finish_if_complete(&mut jobs);
            Ok(())
        } else {
            Err("data for a file that was not listed")
        }
    }

    /// A signature of so many bytes goes out; or the hashes of a partial's pieces, which the sender need not hold.
    pub fn signed(&self, bytes: u64) {
        let mut jobs = lock(&self.jobs);
        jobs.signed += bytes;
        jobs.bases += 1;
    }

    /// The file of a signature of so many bytes was resolved: the sender has forgotten it.
    pub fn unsigned(&self, bytes: u64) {
        let mut jobs = lock(&self.jobs);
        jobs.signed -= bytes;
        jobs.bases -= 1;
        if !jobs.basis.is_empty() {
            self.workers.notify_one();
        }
    }

    /// So many wanted entries were applied or will not come.
    pub fn resolved(&self, count: u64) {
        let mut jobs = lock(&self.jobs);
        jobs.outstanding -= count;
        if jobs.outstanding == 0 {
            self.generator.notify_one();
        }
        self.finish_if_complete(&mut jobs);
    }

    /// Something was written that waits for its name.
    pub fn stage(&self, staged: Staged, mode: Fsync) {
        let mut jobs = lock(&self.jobs);
        jobs.batch.stage(staged, mode);
        if jobs.commit_due().is_some_and(|due| due <= Instant::now()) {
            self.workers.notify_one();
        }
    }

    /// An entry that waited for another one was linked to it.
    pub fn linked(&self, placed: Placed) {
        lock(&self.jobs).batch.place(vec![placed]);
        self.resolved(1);
    }

    /// So many more entries, or fewer, wait for one that is coming, to be linked to it.
    pub fn waiting(&self, more: i64) {
        let mut jobs = lock(&self.jobs);
        jobs.batch.waiting = jobs.batch.waiting.saturating_add_signed(more);
        self.workers.notify_one();
    }

    /// Whether something waits to be given its name.
    pub fn is_staged(&self) -> bool {
        lock(&self.jobs).batch.is_staged()
    }

    /// All that was written, and all that has its name, to be synced.
    pub fn take_batch(&self) -> (Vec<Staged>, Vec<Placed>) {
        lock(&self.jobs).batch.take()
    }

    /// A `Job::Commit` is done: so many entries have their places.
    pub fn committed(&self, placed: Vec<Placed>, resolved: u64) {
        let mut jobs = lock(&self.jobs);
        jobs.batch.place(placed);
        jobs.batch.committing = false;
        drop(jobs);
        self.resolved(resolved);
        self.workers.notify_all();
    }

    /// Entries that were resolved are not, after all: what was finished has to be finished once more.
    pub fn reopen(&self, count: u64) {
        let mut jobs = lock(&self.jobs);
        jobs.outstanding += count;
        jobs.finishing = false;
    }

    fn finish_if_complete(&self, jobs: &mut Jobs) {
        if jobs.ended && jobs.outstanding == 0 && !jobs.finishing {
            jobs.finishing = true;
            jobs.finish = true;
            self.workers.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_look_has_an_end_and_nothing_goes_on_before_what_was_wanted_is_settled() {
        let queue = Queue::new(1);
        queue.look();
        assert!(!queue.end());
        queue.compared(0, 2, Vec::new());
        std::thread::scope(|scope| {
            let settled = scope.spawn(|| queue.settle(|| false));
            queue.resolved(1);
            assert!(!settled.is_finished());
            queue.resolved(1);
            assert!(settled.join().expect("joined"));
        });
        assert!(queue.end());
        assert!(!queue.end(), "one too many is no end");
        queue.compared(1, 1, Vec::new());
        assert!(!queue.settle(|| true), "the session stopped");
    }
}
