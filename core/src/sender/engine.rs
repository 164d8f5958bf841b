//! The sender's engine: its threads, what they share, and the receiver's messages to it.

use std::collections::HashSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::beneath::{Meta, lock};
use crate::buffer;
use crate::compress;
use crate::landlock::{self, Access, Confinement};
use crate::list::{self, u32_at, u64_at};
use crate::profile::{Profile, Stage};
use crate::signature::{self, Kind};
use crate::tree::Tree;
use crate::wake::Wake;
use crate::walk;
use crate::walk::names::Names;

use super::Violation;
use super::basis::{Bases, Known};
use super::counters::Counters;
use super::jobs::Jobs;
use super::link::{Compress, Link};
use super::listing::{Listing, Next};
use super::memo::Memo;
use super::names::{Firsts, Groups};
use super::queue::{self, Queue, Work};
use super::read;
use super::source::Source;

/// A stack of this size holds a directory block and shallow calls.
const STACK: usize = 256 << 10;

/// Bytes of an ACK before the chunks to forget.
const ACK: usize = 36;

/// (code of the error, path, errno or 0, what was being done).
pub type Failure = (&'static str, Vec<u8>, i32, String);

/// What an engine is to do; see `_core.pyi`.
pub struct Settings {
    /// What to leave out, and whether to hash.
    pub walk: walk::Options,
    /// The paths to list; None: everything.
    pub looks: Option<Vec<u8>>,
    /// What is known of the source.
    pub tree: Option<Arc<Tree>>,
    /// The tree's tick at what is agreed with the receiver.
    pub since: Option<u64>,
    /// Chunks carry numeric owners.
    pub owners: bool,
    /// Chunks say which entries are names of one file.
    pub hard_links: bool,
    /// Walkers, and readers.
    pub threads: usize,
    /// The largest batch of records.
    pub batch_max: usize,
    /// First grants.
    pub windows: (u64, u64),
    /// Time is to be measured.
    pub profile: bool,
    /// What the user asked for.
    pub compress: Compress,
    /// The link is long.
    pub far: bool,
    /// Threads restrict themselves to the source.
    pub confine: bool,
    /// A few small files go out with the list.
    pub ahead: bool,
}

/// One session's sender.
pub struct Engine {
    /// Where files are read.
    pub source: Source,
    /// What is wanted and what was read.
    pub queue: Queue,
    /// How often one may still wait for a file that was emptied a moment ago: see `read`.
    pub patience: AtomicU32,
    /// What was done.
    pub counters: Counters,
    /// Where the time went.
    pub profile: Arc<Profile>,
    /// Tells the event loop.
    pub wake: Arc<Wake>,
    /// The list.
    pub listing: Listing,
    pub(super) jobs: Jobs,
    /// What the threads may open; made by the first that opens something.
    confinement: OnceLock<Confinement>,
    /// What was listed by name.
    pub(super) names: Mutex<Names>,
    link: Arc<Link>,
    pub(super) settings: Settings,
    /// Readers at work.
    busy: AtomicU64,
    pub(super) stop: AtomicBool,
    /// Whether one was started.
    readers: AtomicBool,
    peer: Mutex<Peer>,
    failure: Mutex<Option<Failure>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the receiver said so far.
#[derive(Default)]
struct Peer {
    want_all: bool,
    wants: u32,
    acked: [u64; 4],
    bases: Bases,
    firsts: Firsts,
    /// Names that could not be linked, and are sent after all.
    unlinked: HashSet<(u32, u32)>,
    /// Files that were asked for once more, of chunks that are not forgotten.
    again: HashSet<(u32, u32)>,
}

impl Engine {
    /// An engine at rest.
    pub fn new(source: Source, mut settings: Settings, wake: Wake) -> Self {
        let mut flags = 0;
        if source.single().is_some() {
            flags |= list::SINGLE;
        }
        if settings.owners {
            flags |= list::OWNERS;
        }
        if settings.walk.hashes {
            flags |= list::HASHES;
        }
        let wake = Arc::new(wake);
        let ready = Arc::clone(&wake);
        let (list_window, data_window) = settings.windows;
        let profile = Arc::new(Profile::new(settings.profile));
        let link = Arc::new(Link::new(settings.compress, settings.far, settings.threads));
        let looks = settings.looks.take();
        Self {
            source,
            queue: Queue::new(settings.batch_max, data_window),
            patience: AtomicU32::new(read::PATIENCE),
            counters: Counters::default(),
            listing: Listing::new(
                flags,
                settings.hard_links.then(|| Groups::new(looks.is_some())),
                list_window,
                Arc::clone(&link),
                Arc::clone(&profile),
                Box::new(move || ready.signal()),
            )
            .remembering(settings.tree.as_ref().map(|tree| Arc::clone(tree.signatures())))
            .going_ahead(settings.ahead),
            jobs: Jobs::new(looks),
            confinement: OnceLock::new(),
            names: Mutex::default(),
            link,
            profile,
            wake,
            settings,
            busy: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            readers: AtomicBool::new(false),
            peer: Mutex::default(),
            failure: Mutex::default(),
            threads: Mutex::default(),
        }
    }

    /// A signature to make while a file is read, at `path` and of so many bytes in storage.
    pub fn memo(&self, path: Vec<u8>, meta: &Meta, allocated: u64) -> Option<Memo> {
        Memo::new(self.settings.tree.as_ref()?.signatures(), path, meta, allocated)
    }

    /// Whether it was closed or has failed.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Why it ended by itself.
    pub fn failure(&self) -> Option<Failure> {
        lock(&self.failure).clone()
    }

    /// Begins to walk.
    pub fn start(self: &Arc<Self>) -> io::Result<()> {
        self.spawn("walk", Self::list)
    }

    fn spawn(self: &Arc<Self>, name: &str, work: fn(&Arc<Self>)) -> io::Result<()> {
        let engine = Arc::clone(self);
        let mut threads = lock(&self.threads);
        if self.is_stopped() {
            return Ok(());
        }
        let builder = std::thread::Builder::new().name(name.to_owned()).stack_size(STACK);
        threads.push(builder.spawn(landlock::carry(move || engine.guard(|| work(&engine))))?);
        Ok(())
    }

    /// Restricts the calling thread, one of the engine's own, to the source. False: that failed, and ended the session.
    ///
    /// Called once the peer has named paths, before one of them is opened. Until then everything that is opened was found
    /// by this end's own walk or named by its own person, and each file would pay for a second look at its path.
    pub(super) fn enter(&self) -> bool {
        let confinement = || {
            let made = Confinement::to(self.source.handles.root().fd(), Access::Read);
            made.map(|made| self.confinement.get_or_init(|| made))
        };
        let entered = match self.confinement.get() {
            _ if !self.settings.confine => return true,
            Some(confinement) => confinement.enter(),
            None => confinement().and_then(Confinement::enter),
        };
        let done = entered.is_ok();
        if let Err(e) = entered {
            let what = "confining a thread to the source (SYNCCTL_LANDLOCK=off does without)";
            self.fail(("internal", Vec::new(), e.raw_os_error().unwrap_or(0), what.to_owned()));
        }
        done
    }

    fn guard(&self, work: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            self.fail((
                "internal",
                Vec::new(),
                0,
                "sending: a worker thread panicked".to_owned(),
            ));
        }
    }

    fn fail(&self, failure: Failure) {
        lock(&self.failure).get_or_insert(failure);
        self.stop();
        self.wake.signal();
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.listing.stop();
        self.queue.stop();
    }

    /// Stops and joins its threads.
    pub fn close(&self) {
        self.stop();
        let threads = std::mem::take(&mut *lock(&self.threads));
        for thread in threads {
            // A panic was made a failure by `guard`.
            let _ = thread.join();
        }
    }

    fn read(self: &Arc<Self>) {
        while let Some(work) = self.profile.time(Stage::Idle, || self.queue.take()) {
            self.grow();
            if self.jobs.named() && !self.enter() {
                return;
            }
            self.busy.fetch_add(1, Ordering::Relaxed);
            self.profile.time(Stage::Read, || match work {
                Work::Batch(batch) => read::send(&batch, Known::default(), self),
                Work::Pieces(large, pieces) => large.work(pieces, self),
                Work::Rebuild(rebuild) => read::send(&rebuild.batch, rebuild.known, self),
            });
            self.busy.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// A batch goes out; with it, `resolved` files of chunk `n` have gone out.
    pub fn emit(&self, n: u32, payload: Vec<u8>, resolved: u32) {
        self.queue.emit(n, self.pack(n, payload), resolved);
        self.wake.signal();
    }

    /// A batch with records of chunk `n`, packed where that pays.
    fn pack(&self, n: u32, raw: Vec<u8>) -> Vec<u8> {
        let Some(level) = self.link.level() else {
            return raw;
        };
        let began = Instant::now();
        let work = || {
            compress::pays(&raw)
                .then(|| compress::pack(&raw, 0, n, level))
                .flatten()
        };
        let Some(packed) = self.profile.time(Stage::Compress, work) else {
            return raw;
        };
        self.link.packed(level, raw.len(), packed.len(), began.elapsed());
        buffer::give(raw);
        packed
    }

    /// The next batch; none while the window is used up.
    pub fn next_data(&self) -> Option<Vec<u8>> {
        let next = self.queue.next(|| self.wake.rearm());
        match &next {
            Some(payload) => self.link.took(payload.len()),
            None => self.link.idle(),
        }
        next
    }

    /// Adds a reader where one more has something to do. That there is none at all is the end.
    fn grow(self: &Arc<Self>) {
        if !self.queue.is_short_handed(self.settings.threads) {
            return;
        }
        let first = !self.readers.swap(true, Ordering::Relaxed);
        if let Err(e) = self.spawn("read", Self::read)
            && first
        {
            self.no_thread(&e);
        }
    }

    fn no_thread(&self, e: &io::Error) {
        let errno = e.raw_os_error().unwrap_or(0);
        self.fail(("internal", Vec::new(), errno, "starting a thread".to_owned()));
    }

    /// The next of the list. `idle`: see `Listing::next`.
    pub fn next_control(self: &Arc<Self>) -> Option<Next> {
        let mut peer = lock(&self.peer);
        let next = self.listing.next(|| self.wake.rearm());
        if let Some(Next::Chunk(n, _)) = next
            && (peer.want_all || self.listing.is_ahead(n))
        {
            self.want_whole(n, &mut peer);
        }
        next
    }

    /// Every regular file of every chunk is wanted; of one with several names, the first of these.
    pub fn want_all(self: &Arc<Self>) {
        let mut peer = lock(&self.peer);
        if std::mem::replace(&mut peer.want_all, true) {
            return;
        }
        for n in 0..self.listing.taken() {
            self.want_whole(n, &mut peer);
        }
    }

    fn want_whole(self: &Arc<Self>, n: u32, peer: &mut Peer) {
        let Some(chunk) = self.listing.chunk(n) else {
            return;
        };
        let others = peer.firsts.others(&chunk);
        let files = (0..chunk.entries() as u32)
            .filter(|i| chunk.entry(*i).kind == list::REGULAR && others.binary_search(i).is_err())
            .collect::<Vec<_>>();
        self.wanted(n, &chunk, files, Vec::new(), peer);
    }

    fn wanted(self: &Arc<Self>, n: u32, chunk: &Arc<list::Chunk>, whole: Vec<u32>, later: Vec<u32>, peer: &mut Peer) {
        let bytes = whole.iter().chain(&later).map(|&i| chunk.entry(i).size).sum();
        self.counters.wanted((whole.len() + later.len()) as u64, bytes);
        if whole.is_empty() && later.is_empty() {
            return;
        }
        self.queue.want(n, Arc::clone(chunk), whole, later.len() as u32);
        peer.bases.expect(n, chunk, later);
        self.grow();
    }

    /// A LOOK.
    pub fn look_untrusted(self: &Arc<Self>, payload: &[u8]) -> Result<(), Violation> {
        let idle = self.jobs.look_untrusted(payload)?;
        self.listing.resume();
        if idle && let Err(e) = self.spawn("walk", Self::list) {
            self.no_thread(&e);
        }
        Ok(())
    }

    /// A WANT.
    pub fn want_untrusted(self: &Arc<Self>, n: u32, payload: &[u8]) -> Result<(), Violation> {
        let mut peer = lock(&self.peer);
        if peer.want_all || n != peer.wants {
            return Err("a WANT that is out of order");
        }
        let entries = self
            .listing
            .entries_of(n)
            .ok_or("a WANT for a chunk that is not there")?;
        let half = entries.div_ceil(8);
        if payload.len() != 2 * half {
            return Err("a WANT whose bitmaps do not fit its chunk");
        }
        peer.wants += 1;
        if payload.iter().all(|&byte| byte == 0) {
            return Ok(());
        }
        if self.listing.is_ahead(n) {
            return Err("a WANT for what comes without one");
        }
        let (wanted, basis) = payload.split_at(half);
        if wanted.iter().zip(basis).any(|(w, b)| b & !w != 0) {
            return Err("a WANT that names a basis for what it does not want");
        }
        let chunk = self.listing.chunk(n).ok_or("a WANT for a chunk that is not there")?;
        let now: Vec<u8> = wanted.iter().zip(basis).map(|(w, b)| w & !b).collect();
        let whole = queue::wanted_untrusted(&chunk, &now)?;
        let later = queue::wanted_untrusted(&chunk, basis)?;
        self.wanted(n, &chunk, whole, later, &mut peer);
        Ok(())
    }

    /// A BASIS.
    pub fn basis_untrusted(self: &Arc<Self>, payload: &[u8]) -> Result<(), Violation> {
        let mut peer = lock(&self.peer);
        let (n, index, kind) = signature::peek_untrusted(payload)?;
        if kind == Kind::Nothing {
            return self.unlinked_untrusted(n, index, &mut peer);
        }
        let remembered = (kind == Kind::Remembered)
            .then(|| self.listing.remembered(n, index))
            .flatten();
        if let Some(rebuild) = peer.bases.take_untrusted(payload, remembered)? {
            self.queue.rebuild(Box::new(rebuild));
        } else {
            self.queue.look_again();
        }
        self.grow();
        Ok(())
    }

    /// A name could not be linked to what its group's first name has: it is sent after all, once.
    fn unlinked_untrusted(self: &Arc<Self>, n: u32, index: u32, peer: &mut Peer) -> Result<(), Violation> {
        let chunk = self.listing.chunk(n).ok_or("a BASIS for a chunk that is not there")?;
        let asked = peer.want_all || n < peer.wants;
        let linked = chunk.link_of(index).is_some() && chunk.entry(index).kind == list::REGULAR;
        if !asked || !linked || !peer.unlinked.insert((n, index)) {
            return Err("a BASIS for what none was announced");
        }
        self.wanted(n, &chunk, vec![index], Vec::new(), peer);
        Ok(())
    }

    /// An AGAIN.
    pub fn again_untrusted(self: &Arc<Self>, payload: &[u8]) -> Result<(), Violation> {
        let mut peer = lock(&self.peer);
        let (files, rest) = payload.as_chunks::<8>();
        if !rest.is_empty() {
            return Err("an AGAIN that is cut short");
        }
        for file in files {
            let (n, index) = (u32_at(file, 0), u32_at(file, 4));
            let wanted = peer.want_all || n < peer.wants;
            let chunk = self.listing.chunk(n).filter(|_| wanted);
            let chunk = chunk.ok_or("an AGAIN for a chunk of which nothing is wanted")?;
            if index as usize >= chunk.entries() || chunk.entry(index).kind != list::REGULAR {
                return Err("an AGAIN for what is not a regular file of the list");
            }
            if !peer.again.insert((n, index)) {
                return Err("an AGAIN for what was sent again");
            }
            self.queue.want(n, chunk, vec![index], 0);
        }
        self.grow();
        Ok(())
    }

    /// An ACK.
    pub fn ack_untrusted(&self, payload: &[u8]) -> Result<(), Violation> {
        let mut peer = lock(&self.peer);
        if payload.len() < ACK || payload.len() - ACK != 4 * u32_at(payload, ACK - 4) as usize {
            return Err("an ACK whose chunks do not fill it");
        }
        let said: [u64; 4] = std::array::from_fn(|i| u64_at(payload, 8 * i));
        if said.iter().zip(&peer.acked).any(|(new, old)| new < old) {
            return Err("an ACK that takes back what an earlier one gave");
        }
        peer.acked = said;
        for at in (ACK..payload.len()).step_by(4) {
            let n = u32_at(payload, at);
            if !peer.want_all && n >= peer.wants || self.queue.is_open(n) {
                return Err("an ACK that forgets a chunk of which something is to come");
            }
            self.listing.forget_untrusted(n)?;
            if !peer.again.is_empty() {
                peer.again.retain(|&(chunk, _)| chunk != n);
            }
        }
        drop(peer);
        let [list_window, data_window, files, bytes] = said;
        self.counters.acked(files, bytes);
        self.grant(list_window, data_window);
        Ok(())
    }

    /// Raises the grants.
    pub fn grant(&self, list_window: u64, data_window: u64) {
        self.listing.grant(list_window);
        if self.queue.grant(data_window) {
            self.wake.signal();
        }
    }

    /// The receiver broke the protocol.
    pub fn violated(&self, violation: Violation) {
        self.fail(("protocol", Vec::new(), 0, violation.to_owned()));
    }

    /// Name and value of every counter.
    pub fn counted(&self) -> [(&'static str, u64); 12] {
        let busy = self.busy.load(Ordering::Relaxed);
        self.counters.table(self.listing.progress(), self.queue.sent(), busy)
    }
}
