//! Reads wanted files into batches of records.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::io::Errno;

use crate::beneath::{self, Meta};
use crate::buffer;
use crate::delta;
use crate::holes;
use crate::list::{self, Group};
use crate::piece;
use crate::profile::Stage;
use crate::record::{self, Record};
use crate::signature;
use crate::tree::REFILL;

use super::basis::Known;
use super::engine::Engine;
use super::large::Large;
use super::memo::Memo;
use super::queue::Batch;

/// How often a file that changes while it is read is read.
const TRIES: u32 = 3;

/// A file that lost all its content a moment ago is looked at again after so long, until it is empty for good,
const STEP: Duration = Duration::from_millis(10);
/// but in one session so often only: two seconds.
pub const PATIENCE: u32 = 200;

const VANISHED: u8 = 1;
const CHANGED: u8 = 2;
const UNREADABLE: u8 = 3;

/// Why a wanted file does not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trouble {
    code: u8,
    errno: i32,
}

impl Trouble {
    /// It changed while it was read.
    pub fn changed() -> Self {
        Self {
            code: CHANGED,
            errno: 0,
        }
    }

    /// It has more pieces than can be numbered.
    pub fn too_large() -> Self {
        Errno::FBIG.into()
    }

    /// The PROBLEM record that says so.
    pub fn record(self, n: u32, index: u32) -> Record {
        Record {
            kind: record::PROBLEM,
            chunk: n,
            index,
            code: self.code,
            errno: self.errno.unsigned_abs(),
            ..Record::default()
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(e: io::Error) -> Self {
        Errno::from_io_error(&e).unwrap_or(Errno::IO).into()
    }
}

impl From<Errno> for Trouble {
    fn from(e: Errno) -> Self {
        let code = match e {
            Errno::NOENT | Errno::NOTDIR => VANISHED,
            // A symlink, a directory, a fifo or a socket took its place.
            Errno::LOOP | Errno::INVAL | Errno::ISDIR | Errno::NXIO => CHANGED,
            _ => UNREADABLE,
        };
        Self {
            code,
            errno: e.raw_os_error(),
        }
    }
}

/// A record of entry (n, index) with a file's attributes.
pub fn header(n: u32, index: u32, meta: &Meta) -> Record {
    Record {
        mode: meta.mode,
        chunk: n,
        index,
        size: meta.size,
        mtime_s: meta.mtime_s,
        mtime_ns: meta.mtime_ns,
        ..Record::default()
    }
}

/// Appends `len` bytes of `file` from `offset`, or fails with `changed`: it has fewer, or (read in one go) more. The holes
/// of a `sparse` one are not read; where they are.
pub fn append(
    file: &OwnedFd,
    out: &mut Vec<u8>,
    offset: u64,
    len: usize,
    sparse: bool,
) -> Result<Vec<Range<usize>>, Trouble> {
    let end = out.len() + len;
    if sparse {
        let at = out.len();
        out.resize(end, 0);
        return holes::read_around(file, offset, &mut out[at..]).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => Trouble::changed(),
            _ => e.into(),
        });
    }
    out.reserve(len);
    while out.len() < end {
        let at = offset + (len - (end - out.len())) as u64;
        match rustix::io::pread(file.as_fd(), rustix::buffer::spare_capacity(out), at) {
            Ok(0) => return Err(Trouble::changed()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    out.truncate(end);
    Ok(Vec::new())
}

/// A batch while it is filled.
struct Filling<'a> {
    engine: &'a Engine,
    batch: &'a Batch,
    out: Vec<u8>,
    files: u32,
    dir: Option<(Group, Result<Arc<OwnedFd>, Trouble>)>,
    known: Known,
}

/// Reads the files of a batch and sends them; a large one is begun. `known` is about the only file of its batch.
pub fn send(batch: &Batch, known: Known, engine: &Engine) {
    let mut filling = Filling {
        engine,
        batch,
        out: buffer::take(batch.expected),
        files: 0,
        dir: None,
        known,
    };
    for &index in &batch.files {
        if engine.is_stopped() {
            return;
        }
        if let Err(trouble) = filling.file(index) {
            filling.problem(index, trouble);
        }
    }
    filling.flush(0);
}

impl Filling<'_> {
    /// Sends what was filled, when there is not room for `more` bytes behind it.
    fn flush(&mut self, more: usize) {
        if more > 0 && self.out.len() + more <= self.engine.queue.batch_max() {
            self.out.reserve(more);
            return;
        }
        if !self.out.is_empty() {
            let full = std::mem::replace(&mut self.out, buffer::take(more));
            let files = std::mem::take(&mut self.files);
            self.engine.emit(self.batch.n, full, files);
        }
        self.out.reserve(more);
    }

    fn problem(&mut self, index: u32, trouble: Trouble) {
        self.flush(record::HEADER);
        let at = self.out.len();
        self.out.resize(at + record::HEADER, 0);
        trouble.record(self.batch.n, index).write(&mut self.out[at..]);
        self.files += 1;
    }

    fn file(&mut self, index: u32) -> Result<(), Trouble> {
        let mut tries = 0;
        loop {
            let (file, meta) = self.refilled(index)?;
            let sparse = holes::may_have(&file, meta.size);
            let memo = self.memo(index, &file, &meta, sparse);
            if meta.size > piece::PIECE as u64 {
                let known = std::mem::take(&mut self.known);
                let large = Large::new((self.batch.n, index), file, meta, sparse, known, memo)?;
                self.engine.queue.share(Arc::new(large));
                return Ok(());
            }
            let len = meta.size as usize;
            self.flush(record::HEADER + len);
            let at = self.out.len();
            self.out.resize(at + record::HEADER, 0);
            let read = append(&file, &mut self.out, 0, len, sparse);
            let after = beneath::stat(&file)?;
            if after == meta
                && let Ok(holes) = &read
            {
                self.whole(index, &meta, at, holes, memo);
                return Ok(());
            }
            self.out.truncate(at);
            tries += 1;
            match read {
                Err(trouble) if trouble != Trouble::changed() => return Err(trouble),
                _ if tries == TRIES => return Err(Trouble::changed()),
                _ => {}
            }
        }
    }

    /// What is to be remembered of a file that changes: its receiver had something of it, or it was listed by itself. One
    /// of many that are sent for the first time costs nothing.
    fn memo(&self, index: u32, file: &OwnedFd, meta: &Meta, sparse: bool) -> Option<Memo> {
        let chunk = &self.batch.chunk;
        let group = chunk.group_of(index);
        let known = self.known.basis.is_some() || !self.known.pieces.is_empty();
        let changed = known || group.flags & list::PARTIAL != 0;
        let path = || beneath::join(chunk.path(group), chunk.entry(index).name);
        let allocated = if sparse {
            holes::allocated(file).unwrap_or(meta.size)
        } else {
            meta.size
        };
        self.engine.memo(changed.then(path)?, meta, allocated)
    }

    fn whole(&mut self, index: u32, meta: &Meta, at: usize, holes: &[Range<usize>], memo: Option<Memo>) {
        let profile = &self.engine.profile;
        let data = &self.out[at + record::HEADER..];
        let hash = profile.time(Stage::Hash, || piece::hash(data));
        let mut tokens = Vec::new();
        let mut stats = delta::Stats {
            literal: data.len() as u64,
            ..delta::Stats::default()
        };
        let mut encoding = record::RAW;
        if let Some(matcher) = self.known.matcher(profile) {
            let matched = profile.time(Stage::Delta, || {
                let own = signature::values(data, 0, matcher.signature().block_len);
                matcher.clone().piece(data, 0, &own, b"", &mut tokens)
            });
            if tokens.len() < data.len() {
                (encoding, stats) = (record::DELTA, matched);
            }
        }
        if let Some(memo) = memo {
            let (weak, values) = profile.time(Stage::Hash, || signature::sign(data, 0, memo.block_len()));
            memo.add(0, &weak, &values);
            memo.keep();
        }
        if !holes.is_empty() {
            let mut punched = Vec::new();
            stats = delta::punch(&tokens, data, holes, &mut punched);
            (encoding, tokens) = (record::DELTA, punched);
        }
        if encoding == record::DELTA {
            self.out.truncate(at + record::HEADER);
            self.out.extend_from_slice(&tokens);
        }
        let header = Record {
            kind: record::WHOLE,
            encoding,
            data_len: (self.out.len() - at - record::HEADER) as u32,
            hash,
            ..header(self.batch.n, index, meta)
        };
        self.engine.counters.literal(stats.literal);
        self.engine.counters.matched(stats.matched);
        self.engine.counters.file();
        header.write(&mut self.out[at..]);
        self.files += 1;
    }

    /// Opens a file. Editors empty one before they write it anew: such a moment is waited out, or the far end would
    /// have an empty file for as long as the next session takes.
    fn refilled(&mut self, index: u32) -> Result<(OwnedFd, Meta), Trouble> {
        loop {
            let opened = self.open(index)?;
            if opened.1.size > 0 || !is_young(&opened.1) || !self.had_content(index) || self.engine.is_stopped() {
                return Ok(opened);
            }
            let left = |n: u32| n.checked_sub(1);
            if self
                .engine
                .patience
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, left)
                .is_err()
            {
                return Ok(opened);
            }
            self.flush(0);
            std::thread::sleep(STEP);
        }
    }

    /// Whether there was something in a file when it was listed, or last looked at.
    fn had_content(&self, index: u32) -> bool {
        let chunk = &self.batch.chunk;
        let entry = chunk.entry(index);
        let tree = self.engine.settings.tree.as_ref();
        let known = || tree?.known_size(chunk.path(chunk.group_of(index)), entry.name);
        entry.size > 0 || known().is_some_and(|size| size > 0)
    }

    /// Opens a file; its directory is opened once for files of it in a row.
    fn open(&mut self, index: u32) -> Result<(OwnedFd, Meta), Trouble> {
        let chunk = &self.batch.chunk;
        let source = &self.engine.source;
        let dir = match &self.dir {
            Some((group, dir)) if (group.start..group.start + group.entries).contains(&index) => dir,
            _ => {
                let group = *chunk.group_of(index);
                let dir = source.handles.dir(chunk.path(&group)).map_err(Trouble::from);
                &self.dir.insert((group, dir)).1
            }
        };
        let dir = dir.as_ref().map_err(|trouble| *trouble)?;
        Ok(beneath::open_read_at(
            dir.as_ref(),
            source.name_of(chunk.entry(index).name),
        )?)
    }
}

/// Whether a file was changed so short a time ago that whoever emptied it may still be about to write it.
fn is_young(meta: &Meta) -> bool {
    let changed = u64::try_from(meta.mtime_s).unwrap_or(0);
    let changed = UNIX_EPOCH + Duration::new(changed, meta.mtime_ns.min(999_999_999));
    SystemTime::now().duration_since(changed).is_ok_and(|age| age < REFILL)
}
