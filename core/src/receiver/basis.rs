//! Answers a WANT's promise: what is here of a wanted file, as a signature or as hashes of a partial's pieces.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::Shared;
use super::apply::{read_at, target};
use super::large::{Basis, Large};
use super::state::Pending;
use crate::beneath::{self, lock};
use crate::buffer;
use crate::piece::{self, PIECE};
use crate::signature::{self, Signature};

/// Bytes of a basis that are read and signed at a time.
const STRETCH: usize = 1 << 20;
/// Blocks in one BASIS payload at the most: 20 bytes each.
const PART: usize = 16 << 10;

/// Sends the BASIS of a wanted file. One that cannot be read is an empty signature: the file then comes whole.
pub fn answer(shared: &Shared, chunk: u32, index: u32, partial: Option<Vec<u8>>) {
    let Some(pending) = lock(&shared.pending).get(&chunk).cloned() else {
        return;
    };
    if let Some(temp) = partial
        && pieces(shared, &pending, index, &temp).is_ok()
    {
        return;
    }
    if let Err(e) = sign(shared, &pending, index)
        && !shared.stopped()
    {
        debug_assert_ne!(e.kind(), io::ErrorKind::InvalidInput);
        send_part(shared, (chunk, index), &unsigned(0, [0; 16]), 0, (&[], &[]), true);
    }
}

fn open(shared: &Shared, pending: &Pending, index: u32) -> io::Result<(OwnedFd, beneath::Meta)> {
    let (dir, name, _) = target(shared, pending, index);
    let dir = shared.handles()?.dir(dir)?;
    beneath::open_read_at(&*dir, name)
}

fn sign(shared: &Shared, pending: &Arc<Pending>, index: u32) -> io::Result<()> {
    let (file, meta) = open(shared, pending, index)?;
    let size = meta.size;
    let mut key = [0; 16];
    rustix::rand::getrandom(&mut key, rustix::rand::GetRandomFlags::empty())?;
    let whole = unsigned(size, key);
    let key = signature::expand_key(&key);
    let block = whole.block_len as usize;
    let signed = 20 * signature::block_count(size, whole.block_len);
    shared.queue.signed(signed);
    let file = Arc::new(Large::with_basis(Basis { file, size }, signed));
    lock(&shared.large).insert((pending.n, index), Arc::clone(&file));
    let Some(basis) = &file.basis else { return Ok(()) };
    let mut buf = buffer::take(STRETCH.max(block));
    let (mut weak, mut strong) = (Vec::with_capacity(PART), Vec::with_capacity(PART));
    let (mut at, mut first) = (0u64, 0u32);
    let mut failed = None;
    while at < size && !shared.stopped() {
        let whole_blocks = (STRETCH / block).max(1) * block;
        let len = (size - at).min(whole_blocks as u64) as usize;
        buf.resize(len, 0);
        if let Err(e) = read_at(&basis.file, at, &mut buf) {
            // What was signed is still good; a delta against a file that shrinks fails its hash and is reported.
            failed = Some(e);
            buf.fill(0);
        }
        let (w, s) = signature::sign(&buf, whole.block_len, &key);
        weak.extend_from_slice(&w);
        strong.extend_from_slice(&s);
        at += len as u64;
        if weak.len() + whole_blocks / block > PART || at >= size {
            send_part(shared, (pending.n, index), &whole, first, (&weak, &strong), at >= size);
            first += weak.len() as u32;
            weak.clear();
            strong.clear();
        }
    }
    buffer::give(buf);
    drop(failed);
    Ok(())
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

/// Hashes the pieces of a partial from disk, and continues it.
fn pieces(shared: &Shared, pending: &Arc<Pending>, index: u32, temp: &[u8]) -> io::Result<()> {
    let (dir, _, entry) = target(shared, pending, index);
    let dir = shared.handles()?.dir(dir)?;
    let (file, meta) = beneath::open_write_at(&*dir, temp)?;
    if meta.size > entry.size {
        beneath::unlink_at(&*dir, temp)?;
        return Err(io::ErrorKind::InvalidData.into());
    }
    // Its last piece may be cut short; without a full one there is nothing to continue, but the file serves as well.
    let count = (meta.size / PIECE as u64) as u32 + u32::from(meta.size == entry.size && meta.size % PIECE as u64 != 0);
    let mut held = Vec::with_capacity(count as usize);
    let mut buf = buffer::take(PIECE);
    for number in 0..count {
        let from = u64::from(number) * PIECE as u64;
        buf.resize((meta.size - from).min(PIECE as u64) as usize, 0);
        read_at(&file, from, &mut buf)?;
        let hash = piece::chaining_value(&buf, number, entry.size);
        held.push(hash);
    }
    buffer::give(buf);
    let numbered: Vec<(u32, [u8; 32])> = (0..).zip(held.iter().copied()).collect();
    let mut payload = Vec::new();
    signature::encode_pieces((pending.n, index), &numbered, &mut payload);
    let large = Large::with_partial(file, temp.to_vec(), held);
    lock(&shared.large).insert((pending.n, index), Arc::new(large));
    shared.out.event(("basis", 0, Some(payload)));
    Ok(())
}
