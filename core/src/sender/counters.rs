//! What a sender did so far; the names are those of `_core.pyi`.

use std::sync::atomic::{AtomicU64, Ordering};

/// What was done so far.
#[derive(Default)]
pub struct Counters {
    files: AtomicU64,
    literal: AtomicU64,
    matched: AtomicU64,
    wanted_files: AtomicU64,
    wanted_bytes: AtomicU64,
    acked_files: AtomicU64,
    acked_bytes: AtomicU64,
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

impl Counters {
    /// A file went out whole.
    pub fn file(&self) {
        add(&self.files, 1);
    }

    /// Content that was sent.
    pub fn literal(&self, bytes: u64) {
        add(&self.literal, bytes);
    }

    /// Content that the receiver has.
    pub fn matched(&self, bytes: u64) {
        add(&self.matched, bytes);
    }

    /// Files asked for, and how large they were when they were listed.
    pub fn wanted(&self, files: u64, bytes: u64) {
        add(&self.wanted_files, files);
        add(&self.wanted_bytes, bytes);
    }

    /// What the receiver says it has applied.
    pub fn acked(&self, files: u64, bytes: u64) {
        self.acked_files.store(files, Ordering::Relaxed);
        self.acked_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Name and value of every counter. `listed`: entries, their bytes, whether these are all. `busy`: readers at work.
    pub fn table(&self, listed: (u64, u64, bool), data_bytes: u64, busy: u64) -> [(&'static str, u64); 12] {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("listed", listed.0),
            ("entries_bytes", listed.1),
            ("list_done", listed.2.into()),
            ("wanted_files", get(&self.wanted_files)),
            ("wanted_bytes", get(&self.wanted_bytes)),
            ("files_sent", get(&self.files)),
            ("literal", get(&self.literal)),
            ("matched", get(&self.matched)),
            ("data_bytes", data_bytes),
            ("busy", busy),
            ("acked_files", get(&self.acked_files)),
            ("acked_bytes", get(&self.acked_bytes)),
        ]
    }
}
