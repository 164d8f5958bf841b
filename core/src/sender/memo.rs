//! The signature of a file, made while the file is read to be sent: what its receiver will hold.

use std::sync::{Arc, Mutex};

use crate::beneath::{Meta, lock};
use crate::list::Stamp;
use crate::signature::{self, Signature, Strong, Value};
use crate::tree::signatures::{Remembered, Signatures};

/// Nobody asks for less than a smaller file.
const SIZE_MIN: u64 = 16 << 10;

/// The processor hashes so many bytes at once, sixteen chunks: shorter blocks take up to four times as long.
const BLOCK_SWIFT: u64 = 16 << 10;

/// The block length for a file of `size` bytes. Its signature is never sent, so its blocks may be longer than the wire
/// would have them: up to a thousandth of the file, which is what an edit then costs.
fn block_len(size: u64) -> u32 {
    let swift = 1 << (size / 1024).clamp(1, BLOCK_SWIFT).ilog2();
    signature::block_len(size).max(swift)
}

/// A signature in the making. Blocks that nothing is said of are holes: no content is found in them.
pub struct Memo {
    signatures: Arc<Signatures>,
    path: Vec<u8>,
    stamp: Stamp,
    block_len: u32,
    sums: Mutex<(Vec<u32>, Vec<Strong>)>,
}

impl Memo {
    /// For the file at `path` below the root, which takes `allocated` bytes. None: it is always sent whole, or its
    /// signature would not be small beside it, or is more than is kept of one file.
    pub fn new(signatures: &Arc<Signatures>, path: Vec<u8>, meta: &Meta, allocated: u64) -> Option<Self> {
        if meta.size < SIZE_MIN {
            return None;
        }
        let block_len = block_len(meta.size);
        let blocks = signature::block_count(meta.size, block_len);
        if !signature::is_small(blocks, allocated) || !signatures.takes(blocks) {
            return None;
        }
        Some(Self {
            signatures: Arc::clone(signatures),
            path,
            stamp: Stamp {
                size: meta.size,
                mtime_s: meta.mtime_s,
                mtime_ns: meta.mtime_ns,
            },
            block_len,
            sums: Mutex::new((vec![0; blocks as usize], vec![[0; 16]; blocks as usize])),
        })
    }

    /// How long its blocks are.
    pub fn block_len(&self) -> u32 {
        self.block_len
    }

    /// The blocks from `offset` on have these sums.
    pub fn add(&self, offset: u64, weak: &[u32], values: &[Value]) {
        let first = (offset / u64::from(self.block_len)) as usize;
        let mut sums = lock(&self.sums);
        let (weaks, strongs) = &mut *sums;
        weaks
            .iter_mut()
            .skip(first)
            .zip(weak)
            .for_each(|(to, from)| *to = *from);
        let strong = values.iter().map(signature::strong);
        strongs
            .iter_mut()
            .skip(first)
            .zip(strong)
            .for_each(|(to, from)| *to = from);
    }

    /// The file was read to its end and was the same throughout.
    pub fn keep(&self) {
        let (weak, strong) = std::mem::take(&mut *lock(&self.sums));
        let signature = Signature {
            basis_size: self.stamp.size,
            block_len: self.block_len,
            weak,
            strong,
        };
        let remembered = Remembered {
            stamp: self.stamp,
            signature: Arc::new(signature),
        };
        self.signatures.put(&self.path, remembered);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_long_where_they_are_many() {
        for (size, expected) in [
            (16 << 10, 4 << 10),
            (8 << 20, 8 << 10),
            (16 << 20, 16 << 10),
            (64 << 20, 16 << 10),
            (1 << 30, 32 << 10),
            (u64::MAX, signature::BLOCK_MAX),
        ] {
            assert_eq!(block_len(size), expected, "{size}");
        }
    }
}
