//! Answers a WANT's promise: what is here of a wanted file, as a signature or as hashes of a partial's pieces.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::Shared;
use super::apply::target;
use super::large::{Basis, Large, Partial};
use super::pieces::store;
use super::state::Pending;
use crate::beneath::{self, Meta, lock};
use crate::buffer;
use crate::holes;
use crate::piece::{self, PIECE};
use crate::profile::Stage;
use crate::rw::{read_at, write_at};
use crate::signature::{self, Signature, Value};

/// Bytes of a basis that are read, signed and sent at a time: with the shortest blocks a payload of 80 KB.
const STRETCH: u64 = 4 * PIECE as u64;

/// Rows of a BASIS that names pieces of a partial: below 1.2 MB.
const ROWS: usize = 32 << 10;

/// Sends the BASIS of a wanted file. One that cannot be read is an empty signature: the file then comes whole.
pub fn answer(shared: &Shared, chunk: u32, index: u32, partial: Option<Vec<u8>>) {
    let Some(pending) = lock(&shared.pending).get(&chunk).cloned() else {
        return;
    };
    let partial = partial.and_then(|temp| {
        let found = pieces(shared, &pending, index, &temp);
        if found.is_err() && !shared.stopped() {
            pending.touch(index);
            let removed = pending
                .dir(shared, index)
                .and_then(|fd| beneath::unlink_at(&*fd, &temp));
            drop(removed); // what is not ours to remove stays
        }
        found.ok()
    });
    if shared.stopped() {
        return;
    }
    let held = partial.as_ref().map(|partial| partial.held.clone());
    let file = (chunk, index);
    if let Some((basis, meta)) = open(shared, &pending, index).ok().filter(|(basis, _)| basis.size > 0) {
        if is_remembered(shared, &pending, index, &meta) {
            say_pieces(shared, file, held.as_deref(), true);
            shared.queue.signed(0);
            keep(shared, file, &Arc::new(Large::with(partial, Some(basis), 0)));
            let mut payload = Vec::new();
            signature::encode_remembered(file, &mut payload);
            return shared.out.event(("basis", 0, Some(payload)));
        }
        if worth_signing(&basis) {
            say_pieces(shared, file, held.as_deref(), true);
            return sign(shared, &pending, index, partial, basis);
        }
    }
    shared.queue.signed(0);
    keep(shared, file, &Arc::new(Large::with(partial, None, 0)));
    match held {
        Some(_) => say_pieces(shared, file, held.as_deref(), false),
        None => send_part(shared, file, &unsigned(0), 0, (&[], &[]), true),
    }
}

/// Names the pieces that a partial holds. `more`: a signature follows.
fn say_pieces(shared: &Shared, file: (u32, u32), held: Option<&[(u32, [u8; 32])]>, more: bool) {
    let Some(held) = held else { return };
    let mut rest = held;
    loop {
        let (rows, behind) = rest.split_at(rest.len().min(ROWS));
        rest = behind;
        let mut payload = Vec::new();
        signature::encode_pieces(file, rows, more || !rest.is_empty(), &mut payload);
        shared.out.event(("basis", 0, Some(payload)));
        if rest.is_empty() {
            return;
        }
    }
}

/// The old file that stands where the wanted one goes, or where that was moved from.
fn open(shared: &Shared, pending: &Pending, index: u32) -> io::Result<(Basis, Meta)> {
    let (_, name, entry) = target(shared, pending, index);
    let dir = pending.dir(shared, index)?;
    let (file, meta) = match (beneath::open_read_at(&*dir, name), shared.origin(&entry)) {
        (Err(e), Some(origin)) if e.raw_os_error() == Some(libc::ENOENT) => {
            beneath::open_read_at(&*origin.fd, origin.name)?
        }
        (opened, _) => opened?,
    };
    // What is not signed is not copied from.
    let size = meta.size.min(signature::SIGNED_MAX);
    Ok((Basis { file, size }, meta))
}

/// Whether a basis looks like what the sender remembers of it. Where it is something else, what is made from it does not
/// fit its hash, and comes again.
fn is_remembered(shared: &Shared, pending: &Pending, index: u32, meta: &Meta) -> bool {
    pending.chunk.remembered_of(index).is_some_and(|stamp| {
        let time = shared.same_time((stamp.mtime_s, stamp.mtime_ns), (meta.mtime_s, meta.mtime_ns));
        time && stamp.size == meta.size && meta.size <= signature::SIGNED_MAX
    })
}

/// Whether a basis holds so much that its signature is small beside it.
fn worth_signing(basis: &Basis) -> bool {
    let blocks = signature::block_count(basis.size, signature::block_len(basis.size));
    let holds = match holes::may_have(&basis.file, basis.size) {
        true => holes::allocated(&basis.file).unwrap_or(basis.size),
        false => basis.size,
    };
    signature::is_small(blocks, holds)
}

/// A signature in the making: workers take stretches of the basis, which go out in order, and between them apply what
/// has come in answer.
pub struct Signing {
    pending: Arc<Pending>,
    index: u32,
    large: Arc<Large>,
    whole: Signature,
    sparse: bool,
    next: AtomicU64,
    out: Mutex<Ready>,
}

/// Weak sums and values of one stretch.
type Sums = (Vec<u32>, Vec<Value>);

/// Stretches that are signed, and which is to go out next.
#[derive(Default)]
struct Ready {
    parts: BTreeMap<u64, Sums>,
    next: u64,
}

fn sign(shared: &Shared, pending: &Arc<Pending>, index: u32, partial: Option<Partial>, basis: Basis) {
    let whole = unsigned(basis.size);
    let signed = 20 * signature::block_count(basis.size, whole.block_len);
    let sparse = holes::may_have(&basis.file, basis.size);
    shared.queue.signed(signed);
    let large = Arc::new(Large::with(partial, Some(basis), signed));
    keep(shared, (pending.n, index), &large);
    let signing = Arc::new(Signing {
        pending: Arc::clone(pending),
        index,
        large,
        whole,
        sparse,
        next: AtomicU64::new(0),
        out: Mutex::default(),
    });
    // Until the last part is out, the session goes on, whatever becomes of the file.
    shared.queue.hold();
    shared.queue.sign(&signing, signing.stretches());
    shared.grow();
}

impl Signing {
    fn stretches(&self) -> u64 {
        self.whole.basis_size.div_ceil(STRETCH)
    }

    /// When to sign more of it: at once, or then.
    pub fn due(&self) -> Option<Instant> {
        self.large.due()
    }

    /// Signs one stretch; whether there may be another. Any number of workers may.
    pub fn work(&self, shared: &Shared) -> bool {
        let count = self.stretches();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if number >= count || shared.stopped() {
            return false;
        }
        let sums = self.stretch(shared, number * STRETCH);
        let mut out = lock(&self.out);
        out.parts.insert(number, sums);
        while let Some((weak, values)) = {
            let next = out.next;
            out.parts.remove(&next)
        } {
            let first = out.next * (STRETCH / u64::from(self.whole.block_len));
            out.next += 1;
            let file = (self.pending.n, self.index);
            let last = out.next == count;
            send_part(shared, file, &self.whole, first as u32, (&weak, &values), last);
            if last {
                shared.queue.resolved(1);
            }
        }
        number + 1 < count
    }

    /// The sums of a stretch, which is read a piece at a time, so that the piece stays in the processor's cache while it
    /// is signed and copied.
    fn stretch(&self, shared: &Shared, from: u64) -> Sums {
        let end = self.whole.basis_size.min(from + STRETCH);
        let mut sums = Sums::default();
        let mut buf = buffer::take(PIECE);
        for at in (from..end).step_by(PIECE) {
            buf.resize((end - at).min(PIECE as u64) as usize, 0);
            let (weak, values) = self.piece(shared, at, &mut buf);
            sums.0.extend(weak);
            sums.1.extend(values);
        }
        buffer::give(buf);
        sums
    }

    /// The sums of the piece at `at`, which is as long as `buf`.
    fn piece(&self, shared: &Shared, at: u64, buf: &mut [u8]) -> Sums {
        let len = buf.len() as u64;
        let block_len = self.whole.block_len;
        let read = |Basis { file, .. }: &Basis| {
            if !self.sparse {
                return read_at(file, at, buf).ok().map(|()| false);
            }
            if holes::next_data(file, at..at + len) == at + len {
                return None;
            }
            let gaps = holes::read_around(file, at, buf).ok()?;
            Some(!gaps.is_empty())
        };
        let basis = self.large.basis.as_ref();
        let Some(gaps) = shared.profile.time(Stage::Read, || basis.and_then(read)) else {
            // A hole, or a basis that shrinks meanwhile. Blocks of nothing are not looked for.
            let blocks = signature::block_count(len, block_len) as usize;
            return (vec![0; blocks], vec![signature::NOTHING; blocks]);
        };
        let (weak, values) = signature::sign(buf, at, block_len);
        let (.., entry) = target(shared, &self.pending, self.index);
        // A piece of the basis may well be the new file's: it is put there while it is at hand.
        let fits = at + len == entry.size.min(at + PIECE as u64);
        if fits && !gaps && !shared.full.load(Ordering::Acquire) {
            let number = (at / PIECE as u64) as u32;
            let value = signature::merged(&values, len, block_len);
            self.large.anticipate(number, value, || {
                store(shared, &self.pending, &self.large, self.index, |file| {
                    write_at(file, buf, at)
                })
            });
        }
        (weak, values)
    }
}

/// Keeps what the file's data will refer to, of which none can be here yet.
fn keep(shared: &Shared, file: (u32, u32), large: &Arc<Large>) {
    if lock(&shared.large).insert(file, Arc::clone(large)).is_some() {
        shared.violation("data for a file whose basis was not said yet");
    }
}

/// What all parts of a signature have in common.
fn unsigned(size: u64) -> Signature {
    Signature {
        basis_size: size,
        block_len: signature::block_len(size),
        ..Signature::default()
    }
}

fn send_part(
    shared: &Shared,
    file: (u32, u32),
    whole: &Signature,
    first: u32,
    (weak, values): (&[u32], &[Value]),
    last: bool,
) {
    let mut payload = Vec::new();
    signature::encode_part(file, whole, first, weak, values, last, &mut payload);
    shared.out.event(("basis", 0, Some(payload)));
}

/// The partial `temp`, its pieces hashed from disk. Err when it is nothing to continue.
fn pieces(shared: &Shared, pending: &Arc<Pending>, index: u32, temp: &[u8]) -> io::Result<Partial> {
    let (_, entry) = pending.entry(index);
    let dir = pending.dir(shared, index)?;
    let (file, meta) = beneath::open_write_at(&*dir, temp)?;
    if meta.size > entry.size {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // Its last piece may be cut short; without a full one there is nothing to continue, but the file serves as well.
    let count = (meta.size / PIECE as u64) as u32 + u32::from(meta.size == entry.size && meta.size % PIECE as u64 != 0);
    let sparse = holes::may_have(&file, meta.size);
    let mut held = Vec::new();
    let mut buf = buffer::take(PIECE);
    let mut number = 0;
    while number < count {
        if shared.stopped() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let from = u64::from(number) * PIECE as u64;
        let data = if sparse {
            holes::next_data(&file, from..meta.size)
        } else {
            from
        };
        if data == meta.size {
            break;
        }
        if data >= from + PIECE as u64 {
            number = (data / PIECE as u64) as u32;
            continue;
        }
        buf.resize((meta.size - from).min(PIECE as u64) as usize, 0);
        let read = || match sparse {
            true => holes::read_around(&file, from, &mut buf).map(drop),
            false => read_at(&file, from, &mut buf),
        };
        shared.profile.time(Stage::Read, read)?;
        let hash = || piece::chaining_value(&buf, number, entry.size);
        held.push((number, shared.profile.time(Stage::Hash, hash)));
        number += 1;
    }
    buffer::give(buf);
    Ok(Partial {
        file,
        temp: temp.to_vec(),
        held,
    })
}
