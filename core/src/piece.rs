//! Pieces: a large file as 1 MiB BLAKE3 subtrees that are hashed apart and merged into the file's hash.

use std::collections::BTreeMap;

use blake3::hazmat::{self, HasherExt, Mode};

/// Bytes of a piece: a power of two, so that every piece but the last is a whole BLAKE3 subtree.
pub const PIECE: usize = 1 << 20;

/// How many pieces a file of `size` bytes has; an empty file has one, which is empty.
pub fn count(size: u64) -> u64 {
    size.div_ceil(PIECE as u64).max(1)
}

/// BLAKE3 of a whole file of at most one piece.
pub fn hash(data: &[u8]) -> [u8; 32] {
    *blake3::hash(data).as_bytes()
}

/// The chaining value of piece number `piece`, whose bytes are `data`, of a file of `size` bytes, `size > PIECE`.
///
/// Zeros, which no data hashes to, when `data` is not as long as that piece is.
pub fn chaining_value(data: &[u8], piece: u32, size: u64) -> [u8; 32] {
    let offset = u64::from(piece) * PIECE as u64;
    let expected = size.saturating_sub(offset).min(PIECE as u64);
    if size <= PIECE as u64 || data.is_empty() || data.len() as u64 != expected {
        return [0; 32];
    }
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset);
    hasher.update(data);
    hasher.finalize_non_root()
}

/// What stands for the chaining value of a subtree that is one hole: no data has it, and holes are not hashed.
pub const HOLE: [u8; 32] = [0; 32];

/// The pieces of a file so far, in any order, merged to complete subtrees as soon as these are: a file in order takes
/// the logarithm of its size, a run of holes no more, and what comes out of order an entry for each gap.
///
/// The file's hash is BLAKE3's where no piece is a hole; a subtree of nothing but holes is HOLE itself.
#[derive(Default)]
pub struct Subtrees {
    /// By first piece: how many pieces, as a power of two, and their chaining value.
    by_first: BTreeMap<u32, (u32, [u8; 32])>,
    have: u64,
}

impl Subtrees {
    /// How many pieces there are.
    pub fn have(&self) -> u64 {
        self.have
    }

    /// How many subtrees wait for their neighbours.
    pub fn fragments(&self) -> usize {
        self.by_first.len()
    }

    /// Whether one of these pieces is here.
    pub fn holds_any(&self, first: u32, count: u32) -> bool {
        let end = u64::from(first) + u64::from(count);
        let before = self
            .by_first
            .range(..u32::try_from(end).unwrap_or(u32::MAX))
            .next_back();
        before.is_some_and(|(&at, &(level, _))| u64::from(at) + (1 << level) > u64::from(first))
    }

    /// Adds a piece of a file of `pieces`. False: it is here already.
    pub fn add(&mut self, piece: u32, value: [u8; 32], pieces: u32) -> bool {
        if self.holds_any(piece, 1) {
            return false;
        }
        self.have += 1;
        self.push(piece, 0, value, pieces);
        true
    }

    /// Adds a run of pieces that are holes, of a file of `pieces`, which contains it. False: one of them is here already.
    pub fn add_holes(&mut self, first: u32, count: u32, pieces: u32) -> bool {
        if self.holds_any(first, count) {
            return false;
        }
        self.have += u64::from(count);
        let (mut at, mut left) = (first, count);
        while left > 0 {
            let mut level = at.trailing_zeros().min(left.ilog2());
            if pieces == 1 << level {
                level -= 1; // both halves of the root stay apart
            }
            self.push(at, level, HOLE, pieces);
            at += 1 << level;
            left -= 1 << level;
        }
        true
    }

    fn push(&mut self, mut first: u32, mut level: u32, mut value: [u8; 32], pieces: u32) {
        loop {
            let sibling = first ^ 1 << level;
            let parent = first & !(1 << level);
            let root = parent == 0 && u64::from(pieces) == 2 << level;
            match self.by_first.get(&sibling) {
                Some(&(same, other)) if same == level && !root => {
                    self.by_first.remove(&sibling);
                    let (left, right) = if sibling < first {
                        (other, value)
                    } else {
                        (value, other)
                    };
                    value = merge(&left, &right);
                    (first, level) = (parent, level + 1);
                }
                _ => {
                    self.by_first.insert(first, (level, value));
                    return;
                }
            }
        }
    }

    /// The hash of a file of `size` bytes, `size > PIECE`. HOLE, which no file hashes to, when it is not all here.
    pub fn file_hash(&self, size: u64) -> [u8; 32] {
        if size <= PIECE as u64 || self.have != count(size) {
            return HOLE;
        }
        let mut values = self.by_first.values().map(|(_, value)| value);
        let (Some(left), Some(last)) = (values.next(), values.next_back()) else {
            return HOLE;
        };
        let right = values.rev().fold(*last, |right, left| merge(left, &right));
        *hazmat::merge_subtrees_root(left, &right, Mode::Hash).as_bytes()
    }
}

fn merge(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    if *left == HOLE && *right == HOLE {
        return HOLE;
    }
    hazmat::merge_subtrees_non_root(left, right, Mode::Hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any order: a permutation by a step that has no divisor in common with the count.
    fn merged(data: &[u8], step: usize) -> [u8; 32] {
        let size = data.len() as u64;
        let pieces: Vec<&[u8]> = data.chunks(PIECE).collect();
        let mut subtrees = Subtrees::default();
        for n in 0..pieces.len() {
            let n = (n * step + 1) % pieces.len();
            assert!(subtrees.add(n as u32, chaining_value(pieces[n], n as u32, size), pieces.len() as u32));
            assert!(subtrees.holds_any(n as u32, 1));
        }
        assert!(subtrees.fragments() <= 4);
        subtrees.file_hash(size)
    }

    #[test]
    fn pieces_merge_to_the_hash_of_the_whole() {
        let data: Vec<u8> = (0..12 * PIECE + 5).map(|n| (n * 31 + (n >> 11)) as u8).collect();
        for pieces in 1..12 {
            for extra in [1, 1023, 1024, 1025, PIECE / 2, PIECE] {
                let whole = &data[..pieces * PIECE + extra];
                for step in [1, 13] {
                    assert_eq!(merged(whole, step), hash(whole), "{} bytes", whole.len());
                }
            }
        }
    }

    #[test]
    fn runs_of_holes_come_to_the_same_however_they_are_cut() {
        for pieces in 2..40_u32 {
            let size = u64::from(pieces) * PIECE as u64;
            let data = pieces / 3;
            let mut one = Subtrees::default();
            assert!(one.add(data, [7; 32], pieces));
            assert!(one.add_holes(data + 1, pieces - data - 1, pieces));
            assert_eq!(data > 0, one.file_hash(size) == HOLE);
            assert!(data == 0 || one.add_holes(0, data, pieces));
            assert!(!one.add(data, [7; 32], pieces) && !one.add_holes(0, pieces, pieces));
            let mut many = Subtrees::default();
            for n in (0..pieces).rev() {
                assert!(if n == data {
                    many.add(n, [7; 32], pieces)
                } else {
                    many.add_holes(n, 1, pieces)
                });
            }
            assert_ne!(one.file_hash(size), HOLE);
            assert_eq!(one.file_hash(size), many.file_hash(size), "{pieces}");
            assert_eq!((one.have(), one.fragments()), (many.have(), many.fragments()));
            let mut none = Subtrees::default();
            assert!(none.add_holes(0, pieces, pieces));
            assert!(![HOLE, one.file_hash(size)].contains(&none.file_hash(size)));
        }
        let mut huge = Subtrees::default();
        assert!(huge.add_holes(0, u32::MAX, u32::MAX) && huge.fragments() <= 32);
        assert_ne!(huge.file_hash(u64::from(u32::MAX) * PIECE as u64), HOLE);
    }

    #[test]
    fn what_does_not_fit_hashes_to_zeros() {
        let data = vec![1; PIECE + 10];
        let size = data.len() as u64;
        assert_eq!(chaining_value(&data[..PIECE - 1], 0, size), [0; 32]);
        assert_eq!(chaining_value(&data[..10], 2, size), [0; 32]);
        assert_eq!(chaining_value(&data[..10], 0, 10), [0; 32]);
        let mut half = Subtrees::default();
        assert!(half.add(0, [1; 32], 2));
        assert_eq!(half.file_hash(size), HOLE);
        assert_eq!(Subtrees::default().file_hash(u64::MAX), HOLE);
        assert_eq!((count(0), count(PIECE as u64), count(size)), (1, 1, 2));
    }
}
