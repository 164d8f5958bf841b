//! Deltas: which parts of a new file a basis already holds, told from the basis's signature alone.
//!
//! Tokens (docs/protocol.md): `u8 0, u32 len, literal` or `u8 1, u32 len, u64 basis_offset`, little-endian.

use std::hash::BuildHasher;
use std::io;
use std::sync::Arc;

use crate::rolling::{self, Rolling};
use crate::scan::Sieve;
use crate::signature::{self, Signature};

const LITERAL: u8 = 0;
const COPY: u8 = 1;
/// Well below what a length field holds.
const TOKEN_MAX: usize = 1 << 30;

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

/// Blocks by weak sum.
#[derive(Debug)]
struct Index {
    sieve: Sieve,
    /// Bucket `n` is `entries[starts[n]..starts[n + 1]]`.
    starts: Vec<u32>,
    starts_shift: u32,
    /// (weak sum, block), sorted by hash, so equal weak sums together.
    entries: Vec<(u32, u32)>,
}

impl Index {
    /// Bits of the sieve per bucket, as a power of two; there are up to twice as many buckets as blocks.
    const SPREAD: u32 = 7;
    /// 32 MiB; only signatures of more than a million blocks would take more.
    const SIEVE_MAX: u32 = 28;

    /// Of the full blocks; a short last one is looked for only at the end of the file.
    fn new(signature: &Signature, blocks: u32) -> Index {
        let bits = (u32::BITS - blocks.leading_zeros()).clamp(4, 24);
        let mut index = Index {
            sieve: Sieve::new(
                (bits + Self::SPREAD).min(Self::SIEVE_MAX),
                std::hash::RandomState::new().hash_one(0) as u32,
            ),
            starts: vec![0; (1 << bits) + 1],
            starts_shift: u32::BITS - bits,
            entries: Vec::with_capacity(blocks as usize),
        };
        let mut keys: Vec<(u32, u32)> = signature.weak.iter().copied().zip(0..blocks).collect();
        keys.sort_unstable_by_key(|&(weak, block)| (index.sieve.hash(weak), block));
        for chain in keys.chunk_by(|a, b| a.0 == b.0) {
            index.sieve.add(chain[0].0);
            let first = index.entries.len();
            for &(weak, block) in chain {
                let strong = |block: u32| signature.strong.get(block as usize);
                let kept = &index.entries[first..];
                if kept.len() == CHAIN_MAX {
                    break;
                }
                if !kept.iter().any(|&(_, earlier)| strong(earlier) == strong(block)) {
                    index.entries.push((weak, block));
                }
            }
            let bucket = (index.sieve.hash(chain[0].0) >> index.starts_shift) as usize;
            index.starts[bucket + 1] = index.entries.len() as u32;
        }
        let mut end = 0;
        for start in &mut index.starts {
            end = end.max(*start);
            *start = end;
        }
        index
    }

    fn chain(&self, weak: u32) -> impl Iterator<Item = u32> {
        let bucket = (self.sieve.hash(weak) >> self.starts_shift) as usize;
        let range = self.starts[bucket] as usize..self.starts[bucket + 1] as usize;
        self.entries[range]
            .iter()
            .filter(move |entry| entry.0 == weak)
            .map(|entry| entry.1)
    }

    /// Moves on while no block has the window's weak sum: see `Sieve::scan`.
    fn scan(&self, rolling: &mut Rolling, leaving: &[u8], entering: &[u8]) -> usize {
        self.sieve
            .scan(rolling, leaving, entering, |weak| self.chain(weak).next().is_some())
    }
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
    key: [u8; 32],
    carry: Option<Carry>,
    /// Bytes that may still be hashed in vain.
    credit: u64,
}

impl Matcher {
    /// Indexes a signature.
    pub fn new(mut signature: Signature) -> Matcher {
        signature.block_len = signature.block_len.max(1);
        // The index trusts these to agree.
        let count = signature::block_count(signature.basis_size, signature.block_len);
        if signature.weak.len() as u64 != count || signature.strong.len() as u64 != count || count > u32::MAX.into() {
            signature = Signature {
                basis_size: 0,
                weak: Vec::new(),
                strong: Vec::new(),
                ..signature
            };
        }
        let full = (signature.basis_size / u64::from(signature.block_len)) as u32;
        Matcher {
            index: Arc::new(Index::new(&signature, full)),
            key: signature::expand_key(&signature.key),
            carry: None,
            credit: credit_max(&signature),
            signature: Arc::new(signature),
        }
    }

    /// Appends to `out` tokens that make exactly `window`, a piece of the new file at `piece_offset`.
    ///
    /// `lookahead` is what follows it in the file: `block_len - 1` bytes, or less when the file ends.  Pieces in order
    /// match best: what one finds in its lookahead, the next one begins with.
    pub fn piece(&mut self, window: &[u8], piece_offset: u64, lookahead: &[u8], out: &mut Vec<u8>) -> Stats {
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
            let weak = if full { self.weak(self.at, block_len) } else { 0 };
            let found = self.expected(full.then_some(weak)).or_else(|| self.search(weak));
            let Some((at, block)) = found else { break };
            let basis = u64::from(block) * block_len as u64;
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
        self.tokens.finish()
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

    fn strong(&self, at: usize, len: usize) -> signature::Strong {
        let (first, second) = self.text.block(at, len);
        signature::strong_of_two(first, second, &self.matcher.key)
    }

    /// The expected block, when it is at `self.at`; `weak` is the sum of the full block there.
    fn expected(&mut self, weak: Option<u32>) -> Option<(usize, u32)> {
        let block = self.hint?;
        let signature = &self.matcher.signature;
        let len = signature.len_of(block) as usize;
        if len < signature.block_len as usize {
            return self.short_last(self.at).filter(|found| found.0 == self.at);
        }
        if weak? != signature.weak[block as usize] {
            return None;
        }
        if self.strong(self.at, len) == self.matcher.signature.strong[block as usize] {
            return Some((self.at, block));
        }
        self.tokens.stats.wasted += len as u64;
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
        if self.strong(at, len) == self.matcher.signature.strong[block] {
            return Some((at, block as u32));
        }
        self.tokens.stats.wasted += len as u64;
        None
    }

    /// The first place from `self.at` on where any block matches; `weak` is the sum of the full block at `self.at`.
    fn search(&mut self, weak: u32) -> Option<(usize, u32)> {
        let Text { window, lookahead, .. } = self.text;
        let len = self.matcher.signature.block_len as usize;
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

    /// The block at `at`, where the weak sum is `weak`.
    fn candidate(&mut self, at: usize, weak: u32) -> Option<u32> {
        let len = self.matcher.signature.block_len as usize;
        self.matcher.index.chain(weak).next()?;
        if self.matcher.credit < len as u64 {
            return None;
        }
        let strong = self.strong(at, len);
        let signature = &self.matcher.signature;
        let same = |block: &u32| signature.strong.get(*block as usize) == Some(&strong);
        // Of equal blocks, the one that goes on as before the difference makes the longer copies.
        let ahead = at - self.at;
        let along = self.hint.filter(|_| ahead.is_multiple_of(len));
        let along = along
            .and_then(|hint| hint.checked_add((ahead / len) as u32))
            .filter(same);
        if let Some(block) = along.or_else(|| self.matcher.index.chain(weak).find(same)) {
            return Some(block);
        }
        self.matcher.credit -= len as u64;
        self.tokens.stats.wasted += len as u64;
        None
    }
}

/// Writes tokens, neighbouring copies as one.
struct Tokens<'a> {
    out: &'a mut Vec<u8>,
    window: &'a [u8],
    /// How much of the window the tokens make, the pending copy included.
    done: usize,
    /// Not written yet: where in the basis, how long.
    copy: Option<(u64, usize)>,
    stats: Stats,
}

impl Tokens<'_> {
    fn copy(&mut self, at: usize, basis: u64, len: usize) {
        self.literal(at);
        self.done = at + len;
        self.stats.matched += len as u64;
        match &mut self.copy {
            Some((begin, so_far)) if *begin + *so_far as u64 == basis && *so_far + len <= TOKEN_MAX => *so_far += len,
            _ => {
                self.flush();
                self.copy = Some((basis, len));
            }
        }
    }

    /// What is not done before `until` is literal.
    fn literal(&mut self, until: usize) {
        if self.done == until {
            return;
        }
        self.flush();
        for bytes in self.window[self.done..until].chunks(TOKEN_MAX) {
            self.out.push(LITERAL);
            self.out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            self.out.extend_from_slice(bytes);
            self.stats.literal += bytes.len() as u64;
        }
        self.done = until;
    }

    fn flush(&mut self) {
        if let Some((basis, len)) = self.copy.take() {
            self.out.push(COPY);
            self.out.extend_from_slice(&(len as u32).to_le_bytes());
            self.out.extend_from_slice(&basis.to_le_bytes());
        }
    }

    fn finish(mut self) -> Stats {
        self.literal(self.window.len());
        self.flush();
        self.stats
    }
}

/// Why tokens were not applied.
#[derive(Debug)]
pub enum ApplyError {
    /// They break the protocol; how.
    Violation(&'static str),
    /// The basis could not be read.
    Io(io::Error),
}

/// Fills `out`, a piece of `piece_len` bytes, from a peer's tokens.
///
/// `read_basis(offset, buffer)` fills its buffer from a basis of `basis_size` bytes; it is asked for nothing else.
pub fn apply_untrusted(
    tokens: &[u8],
    piece_len: usize,
    basis_size: u64,
    mut read_basis: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
    out: &mut [u8],
) -> Result<Stats, ApplyError> {
    let mut room = out
        .get_mut(..piece_len)
        .ok_or(ApplyError::Violation("delta: no room for the piece"))?;
    let mut stats = Stats::default();
    let mut rest = tokens;
    while let Some((&kind, after)) = rest.split_first() {
        let (len, after) = after
            .split_first_chunk()
            .ok_or(ApplyError::Violation("delta: truncated"))?;
        let len = u32::from_le_bytes(*len);
        if len == 0 {
            return Err(ApplyError::Violation("delta: empty token"));
        }
        let (here, left) = room
            .split_at_mut_checked(len as usize)
            .ok_or(ApplyError::Violation("delta: longer than its piece"))?;
        rest = match kind {
            LITERAL => {
                let split = after.split_at_checked(here.len());
                let (literal, after) = split.ok_or(ApplyError::Violation("delta: truncated"))?;
                here.copy_from_slice(literal);
                stats.literal += u64::from(len);
                after
            }
            COPY => {
                let (offset, after) = after
                    .split_first_chunk()
                    .ok_or(ApplyError::Violation("delta: truncated"))?;
                let offset = u64::from_le_bytes(*offset);
                if basis_size
                    .checked_sub(offset)
                    .is_none_or(|behind| behind < u64::from(len))
                {
                    return Err(ApplyError::Violation("delta: copies from outside the basis"));
                }
                read_basis(offset, here).map_err(ApplyError::Io)?;
                stats.matched += u64::from(len);
                after
            }
            _ => return Err(ApplyError::Violation("delta: unknown token")),
        };
        room = left;
    }
    if room.is_empty() {
        Ok(stats)
    } else {
        Err(ApplyError::Violation("delta: shorter than its piece"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deterministic bytes that do not repeat.
    fn noise(len: usize, seed: u64) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut step = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        (0..len).map(|_| step()).collect()
    }

    /// The delta in pieces of `piece` bytes, applied: equal to `new`, or the test fails.  The sum of its stats.
    fn sync(basis: &[u8], new: &[u8], block_len: u32, piece: usize) -> Stats {
        let mut matcher = Matcher::new(Signature::of(basis, block_len, [7; 16]));
        let mut sum = Stats::default();
        for (n, window) in new.chunks(piece).enumerate() {
            let behind = n * piece + window.len();
            let lookahead = &new[behind..new.len().min(behind + block_len as usize - 1)];
            let mut tokens = Vec::new();
            let stats = matcher.piece(window, (n * piece) as u64, lookahead, &mut tokens);
            let mut made = vec![0; window.len()];
            let applied = apply(&tokens, basis, &mut made).ok();
            assert_eq!(applied, Some(Stats { wasted: 0, ..stats }));
            assert!(made == window, "piece {n} differs");
            sum.literal += stats.literal;
            sum.matched += stats.matched;
            sum.wasted += stats.wasted;
        }
        sum
    }

    fn apply(tokens: &[u8], basis: &[u8], out: &mut [u8]) -> Result<Stats, ApplyError> {
        let read = |offset: u64, buffer: &mut [u8]| {
            buffer.copy_from_slice(&basis[offset as usize..offset as usize + buffer.len()]);
            Ok(())
        };
        apply_untrusted(tokens, out.len(), basis.len() as u64, read, out)
    }

    #[test]
    fn an_equal_file_is_copies_alone_whatever_the_pieces() {
        let basis = noise(100_000, 1);
        for piece in [500, 703, 704, 1000, 4096, 100_000] {
            assert_eq!(
                sync(&basis, &basis, 704, piece),
                Stats {
                    literal: 0,
                    matched: 100_000,
                    wasted: 0
                }
            );
        }
    }

    #[test]
    fn an_equal_piece_is_one_token() {
        let basis = noise(100_000, 1);
        let mut tokens = Vec::new();
        Matcher::new(Signature::of(&basis, 704, [7; 16])).piece(&basis, 0, &[], &mut tokens);
        assert_eq!(tokens.len(), 13);
    }

    #[test]
    fn insertions_deletions_and_moves_cost_about_what_they_change() {
        let basis = noise(200_000, 2);
        let (a, b) = basis.split_at(77_777);
        let changed = [
            [b"new".as_slice(), &basis].concat(),
            [a, b"in the middle", b].concat(),
            [a, &b[1000..]].concat(),
            [b, a].concat(),
            basis[..150_000].to_vec(),
            [basis.as_slice(), &noise(500, 3)].concat(),
        ];
        for (n, new) in changed.iter().enumerate() {
            for piece in [4096, 65_536, 1 << 20] {
                let stats = sync(&basis, new, 704, piece);
                assert!(stats.literal <= 2 * 704 + 500, "change {n}: {stats:?}");
                assert_eq!(stats.literal + stats.matched, new.len() as u64);
            }
        }
    }

    #[test]
    fn the_short_last_block_is_found_at_the_end_alone() {
        let basis = noise(704 * 3 + 100, 4);
        let short = &basis[704 * 3..];
        let at_the_end = [noise(5000, 5).as_slice(), short].concat();
        assert_eq!(sync(&basis, &at_the_end, 704, 1000).matched, 100);
        let elsewhere = [short, &noise(5000, 5)].concat();
        assert_eq!(sync(&basis, &elsewhere, 704, 1000).matched, 0);
    }

    #[test]
    fn a_repeated_byte_shifted_by_one_is_copies() {
        let basis = vec![b'a'; 300_000];
        let mut shifted = basis.clone();
        shifted[0] = b'b';
        let stats = sync(&basis, &shifted, 704, 1 << 16);
        assert!(stats.literal <= 2 * 704 && stats.wasted == 0, "{stats:?}");
    }

    /// Blocks of one byte, but for three in the middle that leave both sums as they were.
    fn colliding(block: usize, variant: usize) -> Vec<u8> {
        let mut bytes = vec![b'a'; block];
        let at = 3 * variant + 1;
        (bytes[at], bytes[at + 1], bytes[at + 2]) = (b'b', b'_', b'b');
        bytes
    }

    #[test]
    fn colliding_weak_sums_cost_bounded_strong_hashes() {
        let basis: Vec<u8> = (0..200).flat_map(|variant| colliding(704, variant)).collect();
        let weak = rolling::weak(&[b'a'; 704]);
        assert!(Signature::of(&basis, 704, [7; 16]).weak.iter().all(|&sum| sum == weak));
        let new = vec![b'a'; 10 << 20];
        let stats = sync(&basis, &new, 704, 1 << 20);
        assert_eq!(stats.literal, new.len() as u64);
        assert!(stats.wasted <= new.len() as u64 + (1 << 20), "{stats:?}");
        // An honest file is still found among them, as far as chains go.
        assert!(sync(&basis, &basis, 704, 1 << 20).literal == 0);
    }

    #[test]
    fn a_signature_that_does_not_fit_matches_nothing() {
        let basis = noise(5000, 8);
        for change in 0..4 {
            let mut signature = Signature::of(&basis, 704, [7; 16]);
            match change {
                0 => signature.basis_size = u64::MAX,
                1 => signature.block_len = 0,
                2 => drop(signature.weak.pop()),
                _ => signature.strong.clear(),
            }
            let mut tokens = Vec::new();
            let stats = Matcher::new(signature).piece(&basis, 0, &[], &mut tokens);
            assert_eq!((stats.literal, stats.matched), (5000, 0));
        }
    }

    #[test]
    fn broken_tokens_are_refused() {
        let copy = |len: u32, offset: u64| [&[COPY][..], &len.to_le_bytes(), &offset.to_le_bytes()].concat();
        let literal = |bytes: &[u8]| [&[LITERAL][..], &(bytes.len() as u32).to_le_bytes(), bytes].concat();
        let basis = noise(100, 9);
        let run = |tokens: &[u8]| match apply(tokens, &basis, &mut [0; 10]) {
            Ok(stats) => Ok((stats.literal, stats.matched)),
            Err(ApplyError::Violation(how)) => Err(how),
            Err(ApplyError::Io(_)) => Err("io"),
        };
        assert_eq!(run(&[copy(6, 94), literal(b"four")].concat()), Ok((4, 6)));
        for (tokens, how) in [
            (copy(10, 91), "delta: copies from outside the basis"),
            (copy(10, u64::MAX), "delta: copies from outside the basis"),
            (copy(11, 0), "delta: longer than its piece"),
            (copy(u32::MAX, 0), "delta: longer than its piece"),
            (copy(0, 0), "delta: empty token"),
            (literal(b""), "delta: empty token"),
            (copy(9, 0), "delta: shorter than its piece"),
            (vec![], "delta: shorter than its piece"),
            (vec![2, 10, 0, 0, 0], "delta: unknown token"),
            ([copy(10, 0), vec![0]].concat(), "delta: truncated"),
            (literal(b"0123456789")[..14].to_vec(), "delta: truncated"),
            (copy(10, 0)[..12].to_vec(), "delta: truncated"),
        ] {
            assert_eq!(run(&tokens), Err(how));
        }
        let failing = |_: u64, _: &mut [u8]| Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        assert!(matches!(
            apply_untrusted(&copy(10, 0), 10, 100, failing, &mut [0; 10]),
            Err(ApplyError::Io(_))
        ));
        assert!(apply_untrusted(&copy(10, 0), 10, 100, failing, &mut [0; 9]).is_err());
    }
}
