//! What the receiver holds of a wanted file: a basis's signature, or pieces of a partial.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::delta::Matcher;
use crate::list::Chunk;
use crate::piece;
use crate::signature::{self, Kind, Signature, SignatureBuilder};

use super::Violation;
use super::queue::Batch;

/// Bytes of BASIS payloads held for files that are not begun; a receiver asks for fewer at a time.
const HELD_MAX: usize = 512 << 20;

/// Wanted files whose basis is awaited.
#[derive(Default)]
pub struct Bases {
    awaited: HashMap<(u32, u32), Awaited>,
    held: Arc<AtomicUsize>,
}

struct Awaited {
    chunk: Arc<Chunk>,
    /// Those that came.
    pieces: Pieces,
    /// None until its first part.
    builder: Option<SignatureBuilder>,
    share: Share,
}

/// Bytes held of one basis, among those of all.
struct Share {
    held: Arc<AtomicUsize>,
    bytes: usize,
}

impl Share {
    fn add_untrusted(&mut self, bytes: usize) -> Result<(), Violation> {
        self.bytes += bytes;
        let before = self.held.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > HELD_MAX {
            return Err("more BASIS than a sender holds");
        }
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Hashes of pieces, by number.
type Pieces = HashMap<u32, [u8; 32]>;

/// What is known of the receiver's file; nothing by default: all is sent as it is.
#[derive(Default)]
pub struct Known {
    /// What its partial holds.
    pub pieces: Pieces,
    /// The blocks of its basis, and how long one is.
    pub blocks: Option<(Matcher, u32)>,
}

/// A file to send as what the receiver lacks of it.
pub struct Rebuild {
    /// The file, by itself.
    pub batch: Batch,
    pieces: Pieces,
    signature: Option<Signature>,
    _share: Share,
}

impl Rebuild {
    /// Indexes the basis: work for a reader.
    pub fn begin(self) -> (Batch, Known) {
        let blocks = self.signature.map(|signature| {
            let block_len = signature.block_len;
            (Matcher::new(signature), block_len)
        });
        let pieces = self.pieces;
        (self.batch, Known { pieces, blocks })
    }
}

impl Bases {
    /// These entries of chunk `n` wait for their basis.
    pub fn expect(&mut self, n: u32, chunk: &Arc<Chunk>, files: Vec<u32>) {
        for index in files {
            let awaited = Awaited {
                chunk: Arc::clone(chunk),
                pieces: Pieces::new(),
                builder: None,
                share: Share {
                    held: Arc::clone(&self.held),
                    bytes: 0,
                },
            };
            self.awaited.insert((n, index), awaited);
        }
    }

    /// Takes a BASIS; the file, when nothing more of its basis is to come.
    pub fn take_untrusted(&mut self, payload: &[u8]) -> Result<Option<Rebuild>, Violation> {
        let (n, index, kind) = signature::peek_untrusted(payload)?;
        let awaited = self
            .awaited
            .get_mut(&(n, index))
            .ok_or("a BASIS for what none was announced")?;
        awaited.share.add_untrusted(payload.len())?;
        let mut whole = None;
        match kind {
            Kind::Signature => {
                let builder = awaited.builder.get_or_insert_default();
                whole = builder.part_untrusted(payload)?;
            }
            _ if awaited.builder.is_some() => {
                return Err("pieces behind a signature that has begun");
            }
            _ => {
                let pieces = piece::count(awaited.chunk.entry(index).size);
                let pieces = signature::pieces_untrusted(payload, pieces)?;
                awaited.pieces.extend(pieces);
            }
        }
        if whole.is_none() && kind != Kind::Pieces {
            return Ok(None);
        }
        Ok(self.awaited.remove(&(n, index)).map(|awaited| Rebuild {
            batch: Batch::one(n, awaited.chunk, index),
            pieces: awaited.pieces,
            signature: whole,
            _share: awaited.share,
        }))
    }
}
