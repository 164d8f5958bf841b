//! Remembered signatures: of files that were sent, the signature of what their receivers hold since.
//!
//! A memory proves nothing. A receiver that holds a file of the remembered size and time takes the memory's word for
//! the rest; where the two differ, what is made does not fit the hash of the new content, and is sent again.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use crate::beneath::lock;
use crate::list::Stamp;
use crate::signature::Signature;

/// Bytes of signatures that a tree keeps: of 100 GB in files of 1 GB, or of 7 GB in files of 1 MB.
pub const BYTES_MAX: usize = 32 << 20;
/// The sums of a block.
const SUMS: usize = 20;
/// What a memory takes beside its sums and twice its path.
const OVERHEAD: usize = 256;

/// The signature of a file as it was when it had this size and time.
#[derive(Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Size and modification time.
    pub stamp: Stamp,
    /// Of its content then.
    pub signature: Arc<Signature>,
}

/// The signatures of one tree, by path below the root; those that were not of use for longest go first.
#[derive(Debug)]
pub struct Signatures {
    kept: Mutex<Kept>,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Kept {
    by_path: HashMap<Arc<[u8]>, Slot>,
    by_use: BTreeMap<u64, Arc<[u8]>>,
    uses: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Slot {
    remembered: Arc<Remembered>,
    used: u64,
    bytes: usize,
}

impl Default for Signatures {
    fn default() -> Self {
        Self::new(BYTES_MAX)
    }
}

impl Signatures {
    /// Nothing yet; never more than so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            kept: Mutex::default(),
            bytes_max,
        }
    }

    /// Whether nothing is remembered at all.
    pub fn is_empty(&self) -> bool {
        lock(&self.kept).by_path.is_empty()
    }

    /// How many bytes are taken.
    pub fn bytes(&self) -> usize {
        lock(&self.kept).bytes
    }

    /// What is remembered of the file at `path` from when it was another than `now`.
    pub fn before(&self, path: &[u8], now: &Stamp) -> Option<Arc<Remembered>> {
        let mut kept = lock(&self.kept);
        let Kept {
            by_path, by_use, uses, ..
        } = &mut *kept;
        let slot = by_path.get_mut(path).filter(|slot| slot.remembered.stamp != *now)?;
        *uses += 1;
        if let Some(path) = by_use.remove(&slot.used) {
            by_use.insert(*uses, path);
        }
        slot.used = *uses;
        Some(Arc::clone(&slot.remembered))
    }

    /// Whether a signature of so many blocks would be kept: none takes more than half of what all may take.
    pub fn takes(&self, blocks: u64) -> bool {
        blocks <= (self.bytes_max / 2 / SUMS) as u64
    }

    /// Remembers a file, in place of what was remembered of it.
    pub fn put(&self, path: &[u8], remembered: Remembered) {
        let blocks = remembered.signature.weak.len();
        let bytes = OVERHEAD + 2 * path.len() + SUMS * blocks;
        let mut kept = lock(&self.kept);
        kept.forget(path);
        if !self.takes(blocks as u64) {
            return;
        }
        while kept.bytes + bytes > self.bytes_max
            && let Some((_, oldest)) = kept.by_use.pop_first()
        {
            kept.forget(&oldest);
        }
        let path: Arc<[u8]> = path.into();
        kept.uses += 1;
        kept.bytes += bytes;
        let slot = Slot {
            remembered: Arc::new(remembered),
            used: kept.uses,
            bytes,
        };
        kept.by_use.insert(slot.used, Arc::clone(&path));
        kept.by_path.insert(path, slot);
    }
}

impl Kept {
    fn forget(&mut self, path: &[u8]) {
        if let Some(slot) = self.by_path.remove(path) {
            self.by_use.remove(&slot.used);
            self.bytes -= slot.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(size: u64) -> Stamp {
        Stamp {
            size,
            mtime_s: -1,
            mtime_ns: 5,
        }
    }

    fn remembered(size: u64, blocks: usize) -> Remembered {
        Remembered {
            stamp: stamp(size),
            signature: Arc::new(Signature {
                basis_size: size,
                block_len: 4096,
                weak: vec![7; blocks],
                strong: vec![[7; 16]; blocks],
            }),
        }
    }

    #[test]
    fn what_is_remembered_is_of_another_time() {
        let signatures = Signatures::default();
        assert!(signatures.is_empty() && signatures.before(b"a", &stamp(1)).is_none());
        signatures.put(b"a", remembered(1, 3));
        assert!(signatures.before(b"a", &stamp(1)).is_none());
        assert_eq!(*signatures.before(b"a", &stamp(2)).expect("there"), remembered(1, 3));
        signatures.put(b"a", remembered(2, 1));
        assert_eq!(*signatures.before(b"a", &stamp(1)).expect("there"), remembered(2, 1));
        assert_eq!(signatures.bytes(), OVERHEAD + 2 + 20);
    }

    #[test]
    fn what_was_not_of_use_for_longest_goes_first() {
        let each = OVERHEAD + 2 + 20 * 10;
        let signatures = Signatures::new(3 * each);
        for name in [b"a", b"b", b"c"] {
            signatures.put(name, remembered(1, 10));
        }
        assert!(signatures.before(b"a", &stamp(2)).is_some());
        assert!(signatures.before(b"b", &stamp(1)).is_none());
        signatures.put(b"d", remembered(1, 10));
        let there = |name: &[u8]| signatures.before(name, &stamp(2)).is_some();
        assert!(there(b"a") && !there(b"b") && there(b"c") && there(b"d"));
        assert_eq!(signatures.bytes(), 3 * each);
    }

    #[test]
    fn one_that_is_too_large_is_not_kept_and_its_past_is_forgotten() {
        let signatures = Signatures::new(1000);
        signatures.put(b"a", remembered(1, 1));
        signatures.put(b"a", remembered(2, 100));
        assert!(signatures.is_empty() && signatures.bytes() == 0);
        signatures.put(b"b", remembered(1, 10));
        assert!(!signatures.is_empty());
    }
}
