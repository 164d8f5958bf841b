//! The signature of a file, made while the file is read to be sent: what its receiver will hold.

use std::sync::{Arc, Mutex};

use crate::beneath::{Meta, lock};
use crate::list::Stamp;
use crate::signature::{self, Signature, Strong, Value};
use crate::tree::signatures::{Remembered, Signatures};

/// Nobody asks for less than a smaller file.
const SIZE_MIN: u64 = 16 << 10;

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
        let block_len = signature::block_len(meta.size);
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
