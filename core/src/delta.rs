//! Deltas: which parts of a new file a basis already holds, told from the basis's signature alone.
//!
//! Tokens (docs/protocol.md): `u8 0, u32 len, literal`, `u8 1, u32 len, u64 basis_offset` or `u8 2, u32 len` for a hole,
//! little-endian.

use std::sync::Arc;

use crate::rolling::{self, Rolling};
use crate::signature::{self, Signature, Value};

mod index;
mod punch;
#[cfg(test)]
mod tests;
mod tokens;

use index::Index;
pub use punch::punch;
use tokens::Tokens;
pub use tokens::{ApplyError, COPY_LEN, apply_untrusted, copy};

/// Blocks tried for one weak sum: more with equal weak sums and different content exist only where someone made them.
const CHAIN_MAX: usize = 16;

/// What a delta is made of, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sent as they are.
    pub literal: u64,
    /// Taken from the basis.
    pub matched: u64,
    /// Strongly hashed without a match: bounded by a small multiple of what was scanned.
    pub wasted: u64,
}

/// What the end of one piece leaves for the piece that begins there.
#[derive(Clone, Copy, Debug)]
struct Carry {
    /// Offset in the new file.
    at: u64,
    /// Where the rest of a match that was cut goes on in the basis, and its length.
    basis: u64,
    len: usize,
    /// The block expected behind it.
    hint: Option<u32>,
}

/// Finds blocks of one basis in a new file.
///
/// A clone shares the index; each keeps the thread of its own run of pieces.
#[derive(Clone, Debug)]
pub struct Matcher {
    signature: Arc<Signature>,
    index: Arc<Index>,
    carry: Option<Carry>,
    /// What precedes the next piece, when no piece did that left a carry.
    behind: Vec<u8>,
    /// Bytes that may still be hashed in vain.
    credit: u64,
}

impl Matcher {
    /// Indexes a signature.
    pub fn new(signature: impl Into<Arc<Signature>>) -> Matcher {
        let mut signature = signature.into();
        // The index trusts these to agree.
        let count = signature::block_count(signature.basis_size, signature.block_len);
        let sums = [signature.weak.len(), signature.strong.len()];
        if sums.iter().any(|&sums| sums as u64 != count) || signature.block_len == 0 || count > u32::MAX.into() {
            signature = Arc::new(Signature {
                block_len: signature.block_len.max(1),
                ..Signature::default()
            });
        }
        let full = (signature.basis_size / u64::from(signature.block_len)) as u32;
        Matcher {
            index: Arc::new(Index::new(&signature, full)),
            carry: None,
            behind: Vec::new(),
            credit: credit_max(&signature),
            signature,
        }
    }

    /// What is looked for.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// How many bytes before the piece at `piece_offset` are to be given to `precede`: none where a piece did precede it.
    pub fn lookbehind(&self, piece_offset: u64) -> u64 {
        let follows = self.carry.is_some_and(|carry| carry.at == piece_offset);
        let most = u64::from(self.signature.block_len) - 1;
        if follows { 0 } else { most.min(piece_offset) }
    }

    /// `behind` precedes the next piece: the end of a block that began there is found, too.
    pub fn precede(&mut self, behind: Vec<u8>) {
        self.behind = behind;
    }

    /// Appends to `out` tokens that make exactly `window`, a piece of the new file at `piece_offset`.
    ///
    /// `own` holds the values of its blocks where they lie, when it begins at a block, or nothing: what did not move is
    /// then found without being hashed again. `lookahead` is what follows it in the file: `block_len - 1` bytes, or less when the file ends.  Pieces in order
    /// match best: what one finds in its lookahead, the next one begins with.
    pub fn piece(
        &mut self,
        window: &[u8],
        piece_offset: u64,
        own: &[Value],
        lookahead: &[u8],
        out: &mut Vec<u8>,
    ) -> Stats {
        let carry = self.carry.take().filter(|carry| carry.at == piece_offset);
        let block_len = self.signature.block_len as usize;
        let run = Run {
            text: Text {
                window,
                lookahead,
                ends: lookahead.len() + 1 < block_len,
            },
            tokens: Tokens {
                out,
                window,
                done: 0,
                copy: None,
                stats: Stats::default(),
            },
            at: 0,
            hint: None,
            offset: piece_offset,
            own,
            carry: None,
            matcher: self,
        };
        run.through(carry)
    }
}

/// A strong hash that finds nothing costs one block of hashing for one byte of progress.  Unchecked, that is quadratic
/// where someone made weak sums collide.  So it is paid from a credit that grows with the bytes scanned: by one each,
/// and by what chance collisions cost with a large basis, twice.
fn credit_per_byte(signature: &Signature) -> u64 {
    1 + (signature.basis_size >> 31)
}

fn credit_max(signature: &Signature) -> u64 {
    (16 * u64::from(signature.block_len)).max(1 << 20)
}

/// A piece and what follows it.
#[derive(Clone, Copy)]
struct Text<'a> {
    window: &'a [u8],
    lookahead: &'a [u8],
    /// The file ends with the lookahead.
    ends: bool,
}

impl<'a> Text<'a> {
    fn len(&self) -> usize {
        self.window.len() + self.lookahead.len()
    }

    /// `len` bytes from `at`, which is in the window.
    fn block(&self, at: usize, len: usize) -> (&'a [u8], &'a [u8]) {
        let behind = (at + len).saturating_sub(self.window.len());
        (&self.window[at..at + len - behind], &self.lookahead[..behind])
    }
}

/// The work on one piece.
struct Run<'a> {
    matcher: &'a mut Matcher,
    text: Text<'a>,
    tokens: Tokens<'a>,
    /// How far the piece is done.
    at: usize,
    /// The block that is expected at `at`.
    hint: Option<u32>,
    /// Of the piece in the file.
    offset: u64,
    /// Values of the piece's blocks in their place.
    own: &'a [Value],
    carry: Option<Carry>,
}

impl Run<'_> {
    fn through(mut self, carry: Option<Carry>) -> Stats {
        match carry {
            Some(carry) => {
                self.take(0, carry.basis, carry.len);
                self.hint = carry.hint;
            }
            None => {
                let block_len = u64::from(self.matcher.signature.block_len);
                let aligned = self.offset.is_multiple_of(block_len);
                self.hint = u32::try_from(self.offset / block_len).ok().filter(|_| aligned);
            }
        }
        let block_len = self.matcher.signature.block_len as usize;
        while self.at < self.text.window.len() {
            let full = self.at + block_len <= self.text.len();
            let found = self.expected(full).or_else(|| self.search(full));
            let Some((at, block)) = found else { break };
            let basis = u64::from(block) * block_len as u64;
            if self.at == 0 && self.ends_behind(at, block) {
                self.take(0, basis - at as u64, at);
            }
            self.hint = block.checked_add(1);
            self.take(at, basis, self.matcher.signature.len_of(block) as usize);
        }
        if let Some(carry) = &mut self.carry {
            carry.hint = self.hint;
        } else {
            let at = self.offset + self.text.window.len() as u64;
            let hint = self.hint.filter(|_| self.at == self.text.window.len());
            self.carry = Some(Carry {
                at,
                basis: 0,
                len: 0,
                hint,
            });
        }
        self.matcher.carry = self.carry;
        self.matcher.behind.clear();
        self.tokens.finish()
    }

    /// Whether what is before `at`, where `block` was found, is the end of the block before it: that one began before the
    /// piece, and nobody looked for it there.
    fn ends_behind(&self, at: usize, block: u32) -> bool {
        let (signature, behind) = (&self.matcher.signature, &self.matcher.behind);
        let block_len = signature.block_len as usize;
        let (Some(block), Some(outside)) = (block.checked_sub(1), block_len.checked_sub(at)) else {
            return false;
        };
        if at == 0 || outside == 0 || behind.len() < outside {
            return false;
        }
        let basis = u64::from(block) * block_len as u64;
        let value = signature::value_of_two(&behind[behind.len() - outside..], &self.text.window[..at], basis);
        signature.strong.get(block as usize) == Some(&signature::strong(&value))
    }

    /// `len` bytes from `at` on are those of the basis from `basis` on; what lies behind the piece is left to the next.
    fn take(&mut self, at: usize, basis: u64, len: usize) {
        let inside = len.min(self.text.window.len() - at);
        if inside > 0 {
            self.tokens.copy(at, basis, inside);
        }
        self.at = at + inside;
        if inside < len {
            let offset = self.offset + self.text.window.len() as u64;
            self.carry = Some(Carry {
                at: offset,
                basis: basis + inside as u64,
                len: len - inside,
                hint: None,
            });
        }
    }

    fn weak(&self, at: usize, len: usize) -> u32 {
        let (first, second) = self.text.block(at, len);
        rolling::weak_of_two(first, second)
    }

    /// Whether `len` bytes from `at` on are `block`, as far as its strong sum tells; and whether that had to be hashed.
    fn is(&self, block: u32, at: usize, len: usize) -> (bool, bool) {
        let signature = &self.matcher.signature;
        let basis = u64::from(block) * u64::from(signature.block_len);
        let strong = signature.strong.get(block as usize);
        let whole = len == signature.block_len as usize || at + len == self.text.window.len();
        if self.offset + at as u64 == basis
            && at + len <= self.text.window.len()
            && whole
            && let Some(own) = self.own.get(at / signature.block_len.max(1) as usize)
        {
            return (strong == Some(&signature::strong(own)), false);
        }
        let (first, second) = self.text.block(at, len);
        let value = signature::value_of_two(first, second, basis);
        (strong == Some(&signature::strong(&value)), true)
    }

    /// The expected block, when it is at `self.at`; `full` says that a full block can be there.
    fn expected(&mut self, full: bool) -> Option<(usize, u32)> {
        let block = self.hint?;
        let signature = &self.matcher.signature;
        let len = signature.len_of(block) as usize;
        if len < signature.block_len as usize {
            return self.short_last(self.at).filter(|found| found.0 == self.at);
        }
        if !full {
            return None;
        }
        let in_place = self.offset + self.at as u64 == u64::from(block) * u64::from(signature.block_len);
        let known = in_place && !self.own.is_empty();
        if !known && self.weak(self.at, len) != signature.weak[block as usize] {
            return None;
        }
        let (same, hashed) = self.is(block, self.at, len);
        if same {
            return Some((self.at, block));
        }
        if hashed {
            self.tokens.stats.wasted += len as u64;
        }
        None
    }

    /// The basis's short last block at the end of the file, when that is not before `from`.
    fn short_last(&mut self, from: usize) -> Option<(usize, u32)> {
        let signature = &self.matcher.signature;
        let block = signature.weak.len().checked_sub(1)?;
        let len = signature.len_of(block as u32) as usize;
        let at = self.text.len().checked_sub(len)?;
        let short = len < signature.block_len as usize;
        if !short || !self.text.ends || at < from || at >= self.text.window.len() {
            return None;
        }
        if self.weak(at, len) != signature.weak[block] {
            return None;
        }
        let (same, hashed) = self.is(block as u32, at, len);
        if same {
            return Some((at, block as u32));
        }
        if hashed {
            self.tokens.stats.wasted += len as u64;
        }
        None
    }

    /// The first place from `self.at` on where any block matches; `full` says that a full block can be there.
    fn search(&mut self, full: bool) -> Option<(usize, u32)> {
        let Text { window, lookahead, .. } = self.text;
        let len = self.matcher.signature.block_len as usize;
        let weak = if full { self.weak(self.at, len) } else { 0 };
        // Behind the last place that may begin a full block.
        let end = (self.text.len() + 1).saturating_sub(len).min(window.len());
        let mut rolling = Rolling::new(weak, len as u32);
        let mut at = self.at;
        while at < end {
            let (leaving, entering) = if at + len < window.len() {
                (&window[at..window.len() - len], &window[at + len..])
            } else {
                let entering = &lookahead[at + len - window.len()..];
                (&window[at..window.len().min(at + entering.len())], entering)
            };
            let blind = self.blind(leaving.len());
            let moved = if blind > 0 {
                leaving[..blind]
                    .iter()
                    .zip(entering)
                    .for_each(|(&out, &new)| rolling.roll(out, new));
                blind
            } else {
                self.matcher.index.scan(&mut rolling, leaving, entering)
            };
            at += moved;
            self.earn(moved);
            if moved > 0 && (blind > 0 || moved == leaving.len()) {
                continue;
            }
            if let Some(block) = self.candidate(at, rolling.weak()) {
                return Some((at, block));
            }
            let Some((&out, &new)) = leaving.get(moved).zip(entering.get(moved)) else {
                break;
            };
            rolling.roll(out, new);
            at += 1;
            self.earn(1);
        }
        self.short_last(self.at)
    }

    /// How many of the next `most` places are passed unseen, until a strong hash can be paid again.
    fn blind(&self, most: usize) -> usize {
        let signature = &self.matcher.signature;
        let missing = u64::from(signature.block_len).saturating_sub(self.matcher.credit);
        missing.div_ceil(credit_per_byte(signature)).min(most as u64) as usize
    }

    fn earn(&mut self, scanned: usize) {
        let signature = &self.matcher.signature;
        let credit = self.matcher.credit + scanned as u64 * credit_per_byte(signature);
        self.matcher.credit = credit.min(credit_max(signature));
    }

    /// The block at `at`, where the weak sum is `weak`. Of equal blocks, the one that goes on as before the difference
    /// makes the longer copies.
    fn candidate(&mut self, at: usize, weak: u32) -> Option<u32> {
        let signature = Arc::clone(&self.matcher.signature);
        let len = signature.block_len as usize;
        let ahead = at - self.at;
        let along = self.hint.filter(|_| ahead.is_multiple_of(len));
        let along = along.and_then(|hint| hint.checked_add((ahead / len) as u32));
        let along = along.filter(|&block| {
            signature.len_of(block) as usize == len && signature.weak.get(block as usize) == Some(&weak)
        });
        let index = Arc::clone(&self.matcher.index);
        let others = index.chain(weak).filter(|&block| Some(block) != along);
        for block in along.into_iter().chain(others) {
            if self.matcher.credit < len as u64 {
                break;
            }
            let (same, hashed) = self.is(block, at, len);
            if same {
                return Some(block);
            }
            if hashed {
                self.matcher.credit -= len as u64;
                self.tokens.stats.wasted += len as u64;
            }
        }
        None
    }
}
