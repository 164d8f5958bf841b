//! The file list on its way out: parts become chunks, chunks wait to be taken, and stay until they are forgotten.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::beneath::{self, lock};
use crate::compress;
use crate::list::{self, Builder, Chunk, Entry};
use crate::profile::{Profile, Stage};
use crate::tree::signatures::{Remembered, Signatures};
use crate::walk::{Part, Sink};

use super::Violation;
use super::link::Link;
use super::names::Groups;

/// Chunks grow from this size, so that the first ones leave early,
const TARGET_MIN: usize = 4 << 10;
/// to this one, where a chunk's fixed costs are no longer felt.
const TARGET_MAX: usize = 96 << 10;
/// A chunk below its target leaves when nothing else waits to and the last one left so long ago.
const FLUSH_AFTER: Duration = Duration::from_millis(2);
/// The zstd level of chunks: higher ones save 4 % of a list and make the walk wait.
const LEVEL: i32 = 1;
/// Content that follows the list without being asked for: FIRST_DATA_WINDOW of proto/limits.py.
const AHEAD_MAX: u64 = 64 << 10;
/// Bytes of chunks held, whatever a receiver grants without forgetting any.
const HELD_MAX: u64 = 64 << 20;

/// A chunk as it was sent, parsed when something in it is wanted.
pub struct Held {
    payload: Vec<u8>,
    entries: usize,
    chunk: Option<Arc<Chunk>>,
    ahead: bool,
    memories: Memories,
}

/// What is remembered of entries of a chunk, by index.
type Memories = Vec<(u32, Arc<Remembered>)>;

/// The list so far: chunks, entries, BLAKE3 over the payloads in order.
pub type Total = (u32, u64, [u8; 32]);

/// The list of one session.
pub struct Listing {
    state: Mutex<State>,
    signatures: Option<Arc<Signatures>>,
    link: Arc<Link>,
    room: Condvar,
    profile: Arc<Profile>,
    ready: Box<dyn Fn() + Send + Sync>,
}

struct State {
    builder: Builder,
    /// Of the entries in `builder`.
    memories: Memories,
    /// None: hard links are not asked for.
    groups: Option<Groups>,
    /// Bytes of content that may still go ahead with the chunk that was begun; None: it is not to.
    ahead: Option<u64>,
    target: usize,
    flushed: Option<Instant>,
    grant: u64,
    bytes: u64,
    entries: u64,
    held_bytes: u64,
    hasher: blake3::Hasher,
    /// Chunks by number; None: forgotten.
    chunks: Vec<Option<Held>>,
    /// What waits for `next`.
    queue: VecDeque<Out>,
    taken: u32,
    /// Ends that are to come.
    ends: u32,
    /// The list up to the end that was taken last.
    ended: Option<Total>,
    stopped: bool,
}

enum Out {
    Chunk(Vec<u8>),
    End(Total),
}

/// What `next` gives.
pub enum Next {
    /// Chunk number and payload.
    Chunk(u32, Vec<u8>),
    /// What was asked for is listed.
    End,
}

impl Listing {
    /// An empty list with these chunk flags, and with hard links when `groups` are asked for. `ready` is called when
    /// there is something to take.
    pub fn new(
        flags: u16,
        groups: Option<Groups>,
        grant: u64,
        link: Arc<Link>,
        profile: Arc<Profile>,
        ready: Box<dyn Fn() + Send + Sync>,
    ) -> Self {
        Self {
            state: Mutex::new(State {
                builder: Builder::new(flags),
                groups,
                memories: Memories::new(),
                ahead: None,
                target: TARGET_MIN,
                flushed: None,
                grant,
                bytes: 0,
                entries: 0,
                held_bytes: 0,
                hasher: blake3::Hasher::new(),
                chunks: Vec::new(),
                queue: VecDeque::new(),
                taken: 0,
                ends: 1,
                ended: None,
                stopped: false,
            }),
            signatures: None,
            link,
            room: Condvar::new(),
            profile,
            ready,
        }
    }

    /// The list says of which files an earlier content is remembered.
    pub fn remembering(mut self, signatures: Option<Arc<Signatures>>) -> Self {
        self.signatures = signatures;
        self
    }

    /// The content of a few small files goes out with the first chunk, when that names nothing else.
    pub fn going_ahead(self, ahead: bool) -> Self {
        lock(&self.state).ahead = ahead.then_some(AHEAD_MAX);
        self
    }

    /// The source is one file: its entry is the whole list. False when stopped.
    pub fn single(&self, entry: &Entry<'_>) -> bool {
        let Some(mut state) = self.wait_room() else {
            return false;
        };
        state.builder.begin_group(b"", list::FIRST | list::LAST, 0);
        state.builder.push(entry);
        true
    }

    /// Waits until a chunk is begun already or may be begun.
    fn wait_room(&self) -> Option<std::sync::MutexGuard<'_, State>> {
        let mut state = lock(&self.state);
        loop {
            if state.stopped {
                return None;
            }
            if !state.builder.is_empty() || state.bytes < state.grant && state.held_bytes < HELD_MAX {
                return Some(state);
            }
            let woken = self.profile.time(Stage::Idle, || self.room.wait(state));
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The chunk that was begun is complete.
    fn flush(&self, state: &mut State) {
        let entries = state.builder.entries();
        let mut payload = state.builder.finish();
        let ahead = state.ahead.take().is_some_and(|room| room < AHEAD_MAX);
        if ahead {
            payload[2] |= list::AHEAD as u8;
        }
        state.entries += entries as u64;
        state.hasher.update(&payload);
        state.bytes += payload.len() as u64;
        state.held_bytes += payload.len() as u64;
        let n = state.chunks.len() as u32;
        // What only this chunk has is in its own flags.
        let flags = list::u16_at(&payload, 2);
        let pack = || compress::pack(&payload, flags, n, LEVEL);
        let level = self.link.level();
        let packed = level.and_then(|_| self.profile.time(Stage::Compress, pack));
        let out = packed.unwrap_or_else(|| payload.clone());
        state.queue.push_back(Out::Chunk(out));
        state.chunks.push(Some(Held {
            payload,
            entries,
            chunk: None,
            ahead,
            memories: std::mem::take(&mut state.memories),
        }));
        state.target = (state.target * 2).min(TARGET_MAX);
        state.flushed = Some(Instant::now());
    }

    /// More is asked for: one more end is to come.
    pub fn resume(&self) {
        lock(&self.state).ends += 1;
    }

    /// Everything is listed again from here on, so the names of one file, too.
    pub fn again(&self) {
        if let Some(groups) = &mut lock(&self.state).groups {
            groups.again();
        }
    }

    /// Inodes of listed files of which other names are not, each once; without hard links, none.
    pub fn take_linked(&self) -> HashSet<u64> {
        let mut state = lock(&self.state);
        state.groups.as_mut().map(Groups::take_open).unwrap_or_default()
    }

    /// What was asked for is listed.
    pub fn finish(&self) {
        let mut state = lock(&self.state);
        if !state.builder.is_empty() {
            self.flush(&mut state);
        }
        (state.flushed, state.ahead) = (None, None);
        state.ends -= 1;
        let total = (state.chunks.len() as u32, state.entries, state.hasher.finalize().into());
        state.queue.push_back(Out::End(total));
        drop(state);
        (self.ready)();
    }

    /// Lets the walk end early.
    pub fn stop(&self) {
        lock(&self.state).stopped = true;
        self.room.notify_all();
    }

    /// The next chunk, or the end of what was asked for. `idle` is called, under the lock, when there is neither.
    pub fn next(&self, idle: impl FnOnce()) -> Option<Next> {
        let mut state = lock(&self.state);
        match state.queue.pop_front() {
            Some(Out::Chunk(payload)) => {
                let n = state.taken;
                state.taken += 1;
                Some(Next::Chunk(n, payload))
            }
            Some(Out::End(total)) => {
                state.ended = Some(total);
                Some(Next::End)
            }
            None => {
                idle();
                None
            }
        }
    }

    /// The list as far as the end that was taken last.
    pub fn total(&self) -> Option<Total> {
        lock(&self.state).ended
    }

    /// (entries, payload bytes, whether the list is complete) so far.
    pub fn progress(&self) -> (u64, u64, bool) {
        let state = lock(&self.state);
        (state.entries, state.bytes, state.ends == 0)
    }

    /// How many chunks were taken.
    pub fn taken(&self) -> u32 {
        lock(&self.state).taken
    }

    /// How many entries chunk `n` has, when it was taken and is not forgotten.
    pub fn entries_of(&self, n: u32) -> Option<usize> {
        let state = lock(&self.state);
        let held = state.chunks.get(n as usize).filter(|_| n < state.taken)?;
        held.as_ref().map(|h| h.entries)
    }

    /// Whether the content of chunk `n` goes out without being asked for.
    pub fn is_ahead(&self, n: u32) -> bool {
        let state = lock(&self.state);
        state
            .chunks
            .get(n as usize)
            .is_some_and(|held| held.as_ref().is_some_and(|held| held.ahead))
    }

    /// Chunk `n`, when it was taken and is not forgotten.
    pub fn chunk(&self, n: u32) -> Option<Arc<Chunk>> {
        let mut state = lock(&self.state);
        if n >= state.taken {
            return None;
        }
        let held = state.chunks.get_mut(n as usize)?.as_mut()?;
        if held.chunk.is_none() {
            // Made here a moment ago: it parses.
            let chunk = Chunk::parse_untrusted(std::mem::take(&mut held.payload)).ok()?;
            held.chunk = Some(Arc::new(chunk));
        }
        held.chunk.clone()
    }

    /// What the list said is remembered of entry `index` of chunk `n`.
    pub fn remembered(&self, n: u32, index: u32) -> Option<Arc<Remembered>> {
        let state = lock(&self.state);
        let memories = &state.chunks.get(n as usize)?.as_ref()?.memories;
        let at = memories.binary_search_by_key(&index, |memory| memory.0).ok()?;
        Some(Arc::clone(&memories[at].1))
    }

    /// The receiver wants nothing more of chunk `n`.
    pub fn forget_untrusted(&self, n: u32) -> Result<(), Violation> {
        let mut state = lock(&self.state);
        let taken = state.taken;
        let held = state
            .chunks
            .get_mut(n as usize)
            .filter(|_| n < taken)
            .and_then(Option::take);
        let Some(held) = held else {
            return Err("an ACK that forgets a chunk that is not there");
        };
        state.held_bytes -= held.chunk.map_or(held.payload.len(), |c| c.len()) as u64;
        drop(state);
        self.room.notify_all();
        Ok(())
    }

    /// Raises the grant; a lower one changes nothing.
    pub fn grant(&self, grant: u64) {
        let mut state = lock(&self.state);
        state.grant = state.grant.max(grant);
        drop(state);
        self.room.notify_all();
    }
}

impl Listing {
    /// Takes a part, of which some entries, by their places in it in order, were at other paths before.
    pub fn take(&self, part: &Part<'_>, origins: &[(usize, &[u8])]) -> bool {
        let Some(mut state) = self.wait_room() else {
            return false;
        };
        let signatures = self.signatures.as_ref().filter(|signatures| !signatures.is_empty());
        let State {
            builder,
            memories,
            groups,
            ahead,
            ..
        } = &mut *state;
        builder.begin_group(part.path, part.flags, part.errno);
        if part.flags & list::PARTIAL == 0 || !origins.is_empty() {
            *ahead = None;
        }
        let mut origins = origins.iter().peekable();
        for (i, (mut entry, linked)) in part.entries().zip(part.linked()).enumerate() {
            if let Some((_, origin)) = origins.next_if(|(at, _)| *at == i) {
                entry.target = origin;
            }
            builder.push(&entry);
            if linked.is_some() {
                *ahead = None;
            } else if entry.kind == list::REGULAR {
                *ahead = ahead.and_then(|room| room.checked_sub(entry.size.max(1)));
            }
            if let (Some(groups), Some(linked)) = (&mut *groups, linked) {
                builder.link(groups.number(entry.kind, linked));
            }
            if let Some(signatures) = signatures
                && entry.kind == list::REGULAR
                && let Some(memory) = signatures.before(&beneath::join(part.path, entry.name), &entry.stamp())
            {
                builder.remember(memory.stamp);
                memories.push((builder.entries() as u32 - 1, memory));
            }
        }
        // The few names of a partial list are told of in one go.
        let first = part.flags & list::PARTIAL == 0;
        let idle = state.queue.is_empty() && state.flushed.map_or(first, |at| at.elapsed() >= FLUSH_AFTER);
        if !idle && state.builder.len() < state.target {
            return true;
        }
        self.flush(&mut state);
        drop(state);
        (self.ready)();
        true
    }
}

impl Sink for Listing {
    fn part(&self, part: &Part<'_>) -> bool {
        self.take(part, &[])
    }
}
