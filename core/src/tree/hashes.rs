//! A tree as the memory of content hashes for a walk.

use super::Tree;
use crate::beneath::Meta;
use crate::walk::Hashes;

impl Hashes for Tree {
    fn cached(&self, dir: &[u8], name: &[u8], meta: &Meta) -> Option<[u8; 32]> {
        self.cached_hash(dir, name, meta)
    }

    fn remember(&self, dir: &[u8], name: &[u8], meta: &Meta, hash: [u8; 32]) {
        self.remember_hash(dir, name, meta, hash);
    }
}
