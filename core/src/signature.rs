//! Block signatures of a basis file.

use blake3::hazmat::{self, HasherExt, Mode};

use crate::piece::PIECE;
use crate::rolling;

mod payload;

pub use payload::{
    Kind, SignatureBuilder, encode_nothing, encode_part, encode_pieces, encode_remembered, peek_untrusted,
    pieces_untrusted,
};

/// The shortest block in bytes: a BLAKE3 chunk.
pub const BLOCK_MIN: u32 = 1 << 10;
/// The shortest one that is chosen: four chunks, which the processor hashes at once. A sum takes 20 bytes, so in files
/// this small fewer of them save more than shorter blocks would.
const BLOCK_LEAST: u32 = 4 << 10;
/// The longest block in bytes, where `BLOCKS_MAX` does not ask for longer ones.
const BLOCK_USUAL: u32 = 128 << 10;
/// The longest block in bytes.
pub const BLOCK_MAX: u32 = PIECE as u32;
/// Blocks of a signature: 20 bytes each on the wire, and with their index about 70 in memory.
pub const BLOCKS_MAX: u64 = 1 << 20;
/// So much of a basis is signed, from its beginning: 1 TiB.
pub const SIGNED_MAX: u64 = BLOCKS_MAX * BLOCK_MAX as u64;

/// The BLAKE3 chaining value of a block as a subtree of its file. Those of a piece's blocks merge to the piece's, so a
/// file is hashed once for its blocks and its pieces.
pub type Value = [u8; 32];

/// Stands for the value of a block that is not looked for: no content has it.
pub const NOTHING: Value = [0; 32];

/// The strong sum of a block: the first half of its value. It proposes; what is made with it is proved by the whole
/// value of its piece.
pub type Strong = [u8; 16];

/// The block length for a basis of `size` bytes: the power of two below its square root, so that signature and literals
/// balance, and longer for files of which there would be too many blocks.
pub fn block_len(size: u64) -> u32 {
    let root = 1 << size.isqrt().max(1).ilog2();
    let fewest = size.div_ceil(BLOCKS_MAX).next_power_of_two().min(u64::from(BLOCK_MAX)) as u32;
    root.clamp(BLOCK_LEAST, BLOCK_USUAL).max(fewest)
}

/// How many blocks of `block_len` bytes cover `size` bytes.
pub fn block_count(size: u64, block_len: u32) -> u64 {
    size.div_ceil(u64::from(block_len.max(1)))
}

/// Whether a signature of so many blocks is small beside a file that holds so many bytes: that of a file of hardly more
/// than holes is not.
pub fn is_small(blocks: u64, holds: u64) -> bool {
    20 * blocks <= holds / 8 + 1024
}

/// The value of the block at `offset` of its file; neither it nor what it is part of is the whole file.
///
/// A block length is a power of two from `BLOCK_MIN`, so that blocks are subtrees; shorter ones, which only tests use,
/// are hashed as if they began a chunk.
pub fn value(block: &[u8], offset: u64) -> Value {
    value_of_two(block, &[], offset)
}

/// The value of a block that lies in two slices, one after the other.
pub fn value_of_two(first: &[u8], second: &[u8], offset: u64) -> Value {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset & !(u64::from(BLOCK_MIN) - 1));
    hasher.update(first).update(second).finalize_non_root()
}

/// The strong sum that stands for `value`.
pub fn strong(value: &Value) -> Strong {
    let mut half = [0; 16];
    half.copy_from_slice(&value[..16]);
    half
}

/// Weak sums and values of the consecutive blocks of `data`, which begins with the block at `offset` of its file; the
/// last one may be short.
pub fn sign(data: &[u8], offset: u64, block_len: u32) -> (Vec<u32>, Vec<Value>) {
    (weak(data, block_len), values(data, offset, block_len))
}

/// The weak sums alone.
pub fn weak(data: &[u8], block_len: u32) -> Vec<u32> {
    data.chunks(block_len.max(1) as usize).map(rolling::weak).collect()
}

/// The values alone.
pub fn values(data: &[u8], offset: u64, block_len: u32) -> Vec<Value> {
    data.chunks(block_len.max(1) as usize)
        .zip((offset..).step_by(block_len.max(1) as usize))
        .map(|(block, at)| value(block, at))
        .collect()
}

/// The value of a subtree of `size` bytes, at most a piece, from those of its blocks.
pub fn merged(values: &[Value], size: u64, block_len: u32) -> Value {
    match values {
        [] => [0; 32],
        [one] => *one,
        _ => {
            let left = hazmat::left_subtree_len(size);
            let (left_values, right_values) = values.split_at((left / u64::from(block_len)) as usize);
            let right = merged(right_values, size - left, block_len);
            hazmat::merge_subtrees_non_root(&merged(left_values, left, block_len), &right, Mode::Hash)
        }
    }
}

/// The values of blocks of `to` bytes, from those of shorter ones of `from` bytes which cover `size` bytes.
pub fn coarser(values: &[Value], size: u64, from: u32, to: u32) -> Vec<Value> {
    let ends = (0..size).step_by(to.max(1) as usize);
    values
        .chunks((to / from.max(1)).max(1) as usize)
        .zip(ends)
        .map(|(values, at)| merged(values, (size - at).min(u64::from(to)), from))
        .collect()
}

/// The signature of a basis, or what came of it so far.  `weak` and `strong` hold one sum for each of its blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signature {
    /// Bytes of the basis.
    pub basis_size: u64,
    /// Bytes of every block but the last.
    pub block_len: u32,
    /// Weak sums by block.
    pub weak: Vec<u32>,
    /// Strong sums by block.
    pub strong: Vec<Strong>,
}

impl Signature {
    /// Signs a basis that is in memory.
    pub fn of(basis: &[u8], block_len: u32) -> Signature {
        let (weak, values) = sign(basis, 0, block_len);
        Signature {
            basis_size: basis.len() as u64,
            block_len: block_len.max(1),
            weak,
            strong: values.iter().map(strong).collect(),
        }
    }

    /// Bytes of block `index`; 0 when there is no such block.
    pub fn len_of(&self, index: u32) -> u32 {
        let begin = u64::from(index) * u64::from(self.block_len);
        self.basis_size.saturating_sub(begin).min(u64::from(self.block_len)) as u32
    }

    /// The weak sums of so many blocks from `offset` on, as far as they are known.
    pub fn weak_at(&self, offset: u64, blocks: usize) -> &[u32] {
        let first = usize::try_from(offset / u64::from(self.block_len.max(1)));
        let known = first.ok().and_then(|first| self.weak.get(first..)).unwrap_or_default();
        &known[..blocks.min(known.len())]
    }

    /// Whether the blocks from `offset` on, as far as they are known, begin with those of these values, which cover `len`
    /// bytes.
    pub fn has(&self, offset: u64, len: u64, values: &[Value]) -> bool {
        let first = offset / u64::from(self.block_len.max(1));
        let known = usize::try_from(first).ok().and_then(|first| self.strong.get(first..));
        // A last block that is short is equal only to one that is as short.
        let fits = offset + len <= self.basis_size
            && (len.is_multiple_of(u64::from(self.block_len.max(1))) || offset + len == self.basis_size);
        fits && known.is_some_and(|known| {
            known.len() >= values.len() && known.iter().zip(values).all(|(known, value)| *known == strong(value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::piece::{self, PIECE};

    #[test]
    fn block_lengths_are_powers_of_two_near_the_root_and_bound_the_blocks() {
        for (size, expected) in [
            (0, 4096),
            (1 << 24, 4096),
            (64 << 20, 8192),
            (1_000_000_000, 16_384),
            (1 << 30, 32_768),
            (1 << 34, 131_072),
            (1 << 37, 131_072),
            ((1 << 37) + 1, 262_144),
            (SIGNED_MAX, BLOCK_MAX),
            (u64::MAX, BLOCK_MAX),
        ] {
            assert_eq!(block_len(size), expected, "{size}");
            let signed = size.min(SIGNED_MAX);
            assert!(block_count(signed, block_len(signed)) <= BLOCKS_MAX);
        }
    }

    #[test]
    fn signing_in_slices_is_signing_at_once() {
        let basis: Vec<u8> = (0..20_000).map(|n| (n % 253) as u8).collect();
        let (mut weak, mut values) = sign(&basis[..2048 * 4], 0, 2048);
        let (more_weak, more_values) = sign(&basis[2048 * 4..], 2048 * 4, 2048);
        weak.extend(more_weak);
        values.extend(more_values);
        assert_eq!((weak, values), sign(&basis, 0, 2048));
    }

    #[test]
    fn blocks_merge_to_their_piece() {
        let data: Vec<u8> = (0..2 * PIECE).map(|n| (n * 31 + (n >> 11)) as u8).collect();
        for len in [1, 1024, 1025, 5000, PIECE - 1, PIECE] {
            let last = &data[PIECE..][..len];
            for block_len in [1024, 4096, PIECE as u32] {
                let values = values(last, PIECE as u64, block_len);
                let piece = piece::chaining_value(last, 1, (PIECE + len) as u64);
                assert_eq!(merged(&values, len as u64, block_len), piece);
            }
        }
    }

    #[test]
    fn longer_blocks_come_from_shorter_ones() {
        let data: Vec<u8> = (0..PIECE).map(|n| (n * 31 + (n >> 11)) as u8).collect();
        for len in [1, 1024, 5000, 16_384, 16_385, PIECE - 1, PIECE] {
            for to in [1024, 2048, 16_384, PIECE as u32] {
                let fine = values(&data[..len], 3 * PIECE as u64, 1024);
                let coarse = values(&data[..len], 3 * PIECE as u64, to);
                assert_eq!(coarser(&fine, len as u64, 1024, to), coarse, "{len} bytes, {to}");
            }
        }
    }

    #[test]
    fn blocks_in_their_place_are_known_and_others_are_not() {
        let basis: Vec<u8> = (0..10_000u32).map(|n| (n >> 5) as u8).collect();
        let mut signature = Signature::of(&basis, 1024);
        let has = |signature: &Signature, from: usize, to: usize| {
            let values = values(&basis[from..to], from as u64, 1024);
            signature.has(from as u64, (to - from) as u64, &values)
        };
        assert!(has(&signature, 0, 10_000) && has(&signature, 2048, 4096) && has(&signature, 9216, 10_000));
        assert!(!has(&signature, 9216, 9999));
        assert!(!signature.has(2048, 1024, &values(&basis[..1024], 2048, 1024)));
        signature.strong.truncate(3);
        assert!(has(&signature, 0, 3072) && !has(&signature, 0, 4096));
    }
}
