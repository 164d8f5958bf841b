//! The blocks of a signature, found by their weak sums.

use std::hash::BuildHasher;

use crate::rolling::Rolling;
use crate::scan::Sieve;
use crate::signature::{self, Signature};

use super::CHAIN_MAX;

/// Blocks by weak sum.
#[derive(Debug)]
pub(super) struct Index {
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
    pub(super) fn new(signature: &Signature, blocks: u32) -> Index {
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
        let nothing = signature::strong(&signature::NOTHING);
        let keys = signature.weak.iter().copied().zip(0..blocks);
        let mut keys: Vec<(u32, u32)> = keys
            .filter(|&(_, block)| signature.strong.get(block as usize) != Some(&nothing))
            .collect();
        keys.sort_unstable_by_key(|&(weak, block)| (index.sieve.hash(weak), block));
        for chain in keys.chunk_by(|a, b| a.0 == b.0) {
            index.sieve.add(chain[0].0);
            index.entries.extend(&chain[..chain.len().min(CHAIN_MAX)]);
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

    pub(super) fn chain(&self, weak: u32) -> impl Iterator<Item = u32> {
        let bucket = (self.sieve.hash(weak) >> self.starts_shift) as usize;
        let range = self.starts[bucket] as usize..self.starts[bucket + 1] as usize;
        self.entries[range]
            .iter()
            .filter(move |entry| entry.0 == weak)
            .map(|entry| entry.1)
    }

    /// Moves on while no block has the window's weak sum: see `Sieve::scan`.
    pub(super) fn scan(&self, rolling: &mut Rolling, leaving: &[u8], entering: &[u8]) -> usize {
        self.sieve
            .scan(rolling, leaving, entering, |weak| self.chain(weak).next().is_some())
    }
}
