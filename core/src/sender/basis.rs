//! What the receiver holds of a wanted file: a basis's signature, or pieces of a partial.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use crate::beneath::lock;
use crate::delta::Matcher;
use crate::list::Chunk;
use crate::piece::{self, PIECE};
use crate::profile::{Profile, Stage};
use crate::signature::{self, Kind, Signature, SignatureBuilder, Value};
use crate::tree::signatures::Remembered;

use super::Violation;
use super::queue::Batch;

/// Bytes of BASIS payloads held for files that are not sent; a receiver asks for fewer at a time.
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
    /// None until its signature's first part came.
    basis: Option<Arc<Basis>>,
    /// The file was begun; parts are still to come.
    begun: bool,
    share: Share,
}

/// Bytes held of one basis, among those of all.
struct Share {
    held: Arc<AtomicUsize>,
    bytes: AtomicUsize,
}

impl Share {
    fn of(held: &Arc<AtomicUsize>) -> Self {
        Self {
            held: Arc::clone(held),
            bytes: AtomicUsize::new(0),
        }
    }

    fn add_untrusted(&self, bytes: usize) -> Result<(), Violation> {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let before = self.held.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > HELD_MAX {
            return Err("more BASIS than a sender holds");
        }
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.held.fetch_sub(*self.bytes.get_mut(), Ordering::Relaxed);
    }
}

/// The signature of one basis: it grows while the file is already being sent, or is remembered.
pub struct Basis {
    remembered: Option<Arc<Signature>>,
    parts: Mutex<SignatureBuilder>,
    complete: AtomicBool,
    /// Of the complete signature; made by the reader that first wants it.
    matcher: OnceLock<Matcher>,
    share: Share,
}

impl Basis {
    fn new(remembered: Option<Arc<Signature>>, held: &Arc<AtomicUsize>) -> Self {
        Self {
            complete: AtomicBool::new(remembered.is_some()),
            remembered,
            parts: Mutex::default(),
            matcher: OnceLock::new(),
            share: Share::of(held),
        }
    }

    /// Takes the next part; whether it was the last one.
    fn part_untrusted(&self, payload: &[u8]) -> Result<bool, Violation> {
        self.share.add_untrusted(payload.len())?;
        let last = lock(&self.parts).part_untrusted(payload)?;
        self.complete.store(last, Ordering::Release);
        Ok(last)
    }

    /// The signature as far as it came. The matcher is made under the lock, so that none sees it half moved there.
    fn seen<T>(&self, look: impl Fn(&Signature) -> T) -> T {
        if let Some(remembered) = &self.remembered {
            return look(remembered);
        }
        if let Some(matcher) = self.matcher.get() {
            return look(matcher.signature());
        }
        let parts = lock(&self.parts);
        match self.matcher.get() {
            Some(matcher) => look(matcher.signature()),
            None => look(parts.so_far()),
        }
    }

    /// How long a block is, and up to where blocks are known.
    pub fn known(&self) -> (u32, u64) {
        self.seen(|seen| {
            let known = seen.strong.len() as u64 * u64::from(seen.block_len);
            (seen.block_len, known.min(seen.basis_size))
        })
    }

    /// Whether nothing more of it is to come.
    pub fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// Whether these blocks, which cover `len` bytes, are where they were.
    pub fn has(&self, offset: u64, len: u64, values: &[Value]) -> bool {
        self.seen(|seen| seen.has(offset, len, values))
    }

    /// The weak sums of these blocks, when they are where they were.
    pub fn weak_of(&self, offset: u64, len: u64, values: &[Value]) -> Option<Vec<u32>> {
        self.seen(|seen| {
            let known = seen.weak_at(offset, values.len());
            (known.len() == values.len() && seen.has(offset, len, values)).then(|| known.to_vec())
        })
    }

    /// What finds its blocks anywhere, when it is complete.
    fn matcher(&self) -> Option<&Matcher> {
        if !self.is_complete() {
            return None;
        }
        if let Some(matcher) = self.matcher.get() {
            return Some(matcher);
        }
        let mut parts = lock(&self.parts);
        let make = || match &self.remembered {
            Some(remembered) => Matcher::new(Arc::clone(remembered)),
            None => Matcher::new(std::mem::take(&mut *parts).into_signature()),
        };
        Some(self.matcher.get_or_init(make))
    }
}

/// Hashes of pieces, by number.
type Pieces = HashMap<u32, [u8; 32]>;

/// What is known of the receiver's file; nothing by default: all is sent as it is.
#[derive(Default)]
pub struct Known {
    /// What its partial holds.
    pub pieces: Pieces,
    /// The blocks of its basis.
    pub basis: Option<Arc<Basis>>,
}

impl Known {
    /// What finds the basis's blocks, when all of them are known.
    pub fn matcher(&self, profile: &Profile) -> Option<&Matcher> {
        let basis = self.basis.as_ref()?;
        profile.time(Stage::Delta, || basis.matcher())
    }
}

/// A file to send as what the receiver lacks of it.
pub struct Rebuild {
    /// The file, by itself.
    pub batch: Batch,
    /// What the receiver has.
    pub known: Known,
}

impl Bases {
    /// These entries of chunk `n` wait for their basis.
    pub fn expect(&mut self, n: u32, chunk: &Arc<Chunk>, files: Vec<u32>) {
        for index in files {
            let awaited = Awaited {
                chunk: Arc::clone(chunk),
                pieces: Pieces::new(),
                basis: None,
                begun: false,
                share: Share::of(&self.held),
            };
            self.awaited.insert((n, index), awaited);
        }
    }

    /// Takes a BASIS, and what is remembered of its file; the file, when enough is there to begin with it: all, or for a large one a part of the signature.
    pub fn take_untrusted(
        &mut self,
        payload: &[u8],
        remembered: Option<Arc<Remembered>>,
    ) -> Result<Option<Rebuild>, Violation> {
        let (n, index, kind) = signature::peek_untrusted(payload)?;
        let awaited = self
            .awaited
            .get_mut(&(n, index))
            .ok_or("a BASIS for what none was announced")?;
        let size = awaited.chunk.entry(index).size;
        let mut last = matches!(kind, Kind::Pieces | Kind::Remembered);
        match kind {
            Kind::Signature => {
                let held = &self.held;
                let basis = awaited.basis.get_or_insert_with(|| Arc::new(Basis::new(None, held)));
                last = basis.part_untrusted(payload)?;
            }
            _ if awaited.basis.is_some() => {
                return Err("another BASIS behind a signature that has begun");
            }
            Kind::Remembered => {
                let remembered = remembered.ok_or("a BASIS of what is not remembered")?;
                let signature = Some(Arc::clone(&remembered.signature));
                awaited.basis = Some(Arc::new(Basis::new(signature, &self.held)));
            }
            _ => {
                awaited.share.add_untrusted(payload.len())?;
                let pieces = signature::pieces_untrusted(payload, piece::count(size))?;
                awaited.pieces.extend(pieces);
            }
        }
        let enough = last || awaited.basis.is_some() && size > PIECE as u64;
        let rebuild = (enough && !awaited.begun).then(|| Rebuild {
            batch: Batch::one(n, Arc::clone(&awaited.chunk), index),
            known: Known {
                pieces: std::mem::take(&mut awaited.pieces),
                // An empty one says that there is none.
                basis: awaited.basis.clone().filter(|basis| basis.known().1 > 0),
            },
        });
        awaited.begun |= enough;
        if last {
            self.awaited.remove(&(n, index));
        }
        Ok(rebuild)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_there_for_everyone_while_its_matcher_is_made() {
        let data: Vec<u8> = (0..4 * PIECE).map(|n| (n * 31 + (n >> 9)) as u8).collect();
        for _ in 0..20 {
            let (weak, values) = signature::sign(&data, 0, 1024);
            let whole = Signature::of(&data, 1024);
            let mut part = Vec::new();
            signature::encode_part((0, 0), &whole, 0, &weak, &values, true, &mut part);
            let basis = Basis::new(None, &Arc::default());
            assert_eq!(basis.part_untrusted(&part), Ok(true));
            std::thread::scope(|scope| {
                scope.spawn(|| basis.matcher().map(|matcher| matcher.signature().basis_size));
                while basis.matcher.get().is_none() {
                    assert_eq!(basis.known(), (1024, data.len() as u64));
                    assert!(basis.has(0, 1024, &values[..1]));
                }
            });
        }
    }
}
