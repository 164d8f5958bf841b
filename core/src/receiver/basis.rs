//! Answers a WANT's promise: what is here of a wanted file, as a signature or as hashes of a partial's pieces.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::Shared;
use super::apply::target;
use super::large::{Basis, Large, Partial};
use super::state::Pending;
use crate::beneath::{self, lock};
use crate::buffer;
use crate::holes;
use crate::piece::{self, PIECE};
use crate::profile::Stage;
use crate::rw::read_at;
use crate::signature::{self, Signature};

/// Bytes of a basis that are read, signed and sent at a time: with the shortest blocks a payload of 120 KB.
const STRETCH: u64 = 4 << 20;

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
            let (dir, ..) = target(shared, &pending, index);
            pending.touch(index);
            let removed = shared
                .handles()
                .and_then(|h| h.dir(dir))
                .and_then(|fd| beneath::unlink_at(&*fd, &temp));
            drop(removed); // what is not ours to remove stays
        }
        found.ok()
    });
    if shared.stopped() {
        return;
    }
    let basis = open(shared, &pending, index)
        .ok()
        .filter(|basis| basis.size > 0 && worth_signing(basis))
        .zip(random_key());
    let held = partial.as_ref().map(|partial| partial.held.clone());
    if let Some((basis, key)) = basis {
        // The sender begins when the signature's last part is there.
        say_pieces(shared, (chunk, index), held.as_deref(), true);
        return sign(shared, &pending, index, partial, basis, key);
    }
    shared.queue.signed(0);
    keep(shared, (chunk, index), &Arc::new(Large::with(partial, None, 0)));
    match held {
        Some(_) => say_pieces(shared, (chunk, index), held.as_deref(), false),
        None => send_part(shared, (chunk, index), &unsigned(0, [0; 16]), 0, (&[], &[]), true),
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

/// The old file that stands where the wanted one goes.
fn open(shared: &Shared, pending: &Pending, index: u32) -> io::Result<Basis> {
    let (dir, name, _) = target(shared, pending, index);
    let dir = shared.handles()?.dir(dir)?;
    let (file, meta) = beneath::open_read_at(&*dir, name)?;
    Ok(Basis { file, size: meta.size })
}

/// Whether a basis holds so much that its signature is small beside it: that of a file of hardly more than holes is not.
fn worth_signing(basis: &Basis) -> bool {
    let signature = 20 * signature::block_count(basis.size, signature::block_len(basis.size));
    let holds = match holes::may_have(&basis.file, basis.size) {
        true => holes::allocated(&basis.file).unwrap_or(basis.size),
        false => basis.size,
    };
    signature <= holds / 8 + 1024
}

/// A signature in the making: several workers take stretches of the basis, which go out in order.
pub struct Signing {
    pending: Arc<Pending>,
    index: u32,
    large: Arc<Large>,
    whole: Signature,
    key: [u8; 32],
    size: u64,
    sparse: bool,
    stretch: u64,
    next: AtomicU64,
    out: Mutex<Ready>,
}

/// Stretches that are signed, and which is to go out next.
#[derive(Default)]
struct Ready {
    parts: BTreeMap<u64, (Vec<u32>, Vec<signature::Strong>)>,
    next: u64,
}

fn sign(shared: &Shared, pending: &Arc<Pending>, index: u32, partial: Option<Partial>, basis: Basis, key: [u8; 16]) {
    let size = basis.size;
    let whole = unsigned(size, key);
    let signed = 20 * signature::block_count(size, whole.block_len);
    let sparse = holes::may_have(&basis.file, size);
    shared.queue.signed(signed);
    let large = Arc::new(Large::with(partial, Some(basis), signed));
    keep(shared, (pending.n, index), &large);
    let block = u64::from(whole.block_len);
    let signing = Arc::new(Signing {
        pending: Arc::clone(pending),
        index,
        large,
        key: signature::expand_key(&key),
        stretch: (STRETCH / block).max(1) * block,
        whole,
        size,
        sparse,
        next: AtomicU64::new(0),
        out: Mutex::default(),
    });
    if size > 2 * STRETCH {
        shared.queue.help_sign(&signing);
    }
    signing.work(shared);
}

/// A key for one signature's strong sums: nobody can make files whose blocks collide under it. None when the system
/// has no random numbers; the file then comes whole.
fn random_key() -> Option<[u8; 16]> {
    let mut key = [0; 16];
    let filled = rustix::rand::getrandom(&mut key, rustix::rand::GetRandomFlags::empty());
    (filled == Ok(key.len())).then_some(key)
}

impl Signing {
    /// Signs stretches until none is left. Any number of workers may.
    pub fn work(&self, shared: &Shared) {
        let Some(basis) = &self.large.basis else { return };
        let count = self.size.div_ceil(self.stretch);
        let mut buf = buffer::take(self.stretch.min(self.size) as usize);
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= count || shared.stopped() {
                break;
            }
            let at = number * self.stretch;
            buf.resize((self.size - at).min(self.stretch) as usize, 0);
            let sums = self.sums(shared, basis, at, &mut buf);
            let mut out = lock(&self.out);
            out.parts.insert(number, sums);
            while let Some((weak, strong)) = {
                let next = out.next;
                out.parts.remove(&next)
            } {
                let first = out.next * (self.stretch / u64::from(self.whole.block_len));
                out.next += 1;
                let file = (self.pending.n, self.index);
                send_part(
                    shared,
                    file,
                    &self.whole,
                    first as u32,
                    (&weak, &strong),
                    out.next == count,
                );
            }
        }
        buffer::give(buf);
    }
}

impl Signing {
    /// The sums of the stretch at `at`, which is as long as `buf`.
    fn sums(&self, shared: &Shared, basis: &Basis, at: u64, buf: &mut [u8]) -> (Vec<u32>, Vec<signature::Strong>) {
        let (len, block) = (buf.len() as u64, self.whole.block_len as usize);
        if self.sparse && holes::next_data(&basis.file, at..at + len) == at + len {
            // Full blocks of a hole are all alike.
            let last = buf.len() / block * block;
            buf[..block.min(len as usize)].fill(0);
            buf[last..].fill(0);
            let (mut weak, mut strong) = signature::sign(&buf[..block.min(last)], self.whole.block_len, &self.key);
            weak = weak.repeat(last / block);
            strong = strong.repeat(last / block);
            let (short_weak, short_strong) = signature::sign(&buf[last..], self.whole.block_len, &self.key);
            weak.extend(short_weak);
            strong.extend(short_strong);
            return (weak, strong);
        }
        let read = shared.profile.time(Stage::Read, || read_at(&basis.file, at, buf));
        if read.is_err() {
            // A basis that shrinks meanwhile: sums of zeros match nothing that is there, or fail their hash.
            buf.fill(0);
        }
        signature::sign(buf, self.whole.block_len, &self.key)
    }
}

/// Keeps what the file's data will refer to, of which none can be here yet.
fn keep(shared: &Shared, file: (u32, u32), large: &Arc<Large>) {
    if lock(&shared.large).insert(file, Arc::clone(large)).is_some() {
        shared.violation("data for a file whose basis was not said yet");
    }
}

/// What all parts of a signature have in common.
fn unsigned(size: u64, key: [u8; 16]) -> Signature {
    Signature {
        basis_size: size,
        block_len: signature::block_len(size),
        key,
        weak: Vec::new(),
        strong: Vec::new(),
    }
}

fn send_part(
    shared: &Shared,
    file: (u32, u32),
    whole: &Signature,
    first: u32,
    (weak, strong): (&[u32], &[signature::Strong]),
    last: bool,
) {
    let mut payload = Vec::new();
    signature::encode_part(file, whole, first, weak, strong, last, &mut payload);
    shared.out.event(("basis", 0, Some(payload)));
}

/// The partial `temp`, its pieces hashed from disk. Err when it is nothing to continue.
fn pieces(shared: &Shared, pending: &Arc<Pending>, index: u32, temp: &[u8]) -> io::Result<Partial> {
    let (dir, _, entry) = target(shared, pending, index);
    let dir = shared.handles()?.dir(dir)?;
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
