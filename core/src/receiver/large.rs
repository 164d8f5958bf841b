//! A wanted file that arrives in pieces, or is made from a basis.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::Shared;
use super::apply::Wrong;
use crate::beneath::{self, lock};
use crate::piece::{self, PIECE, Subtrees};
use crate::record::{self, Record};
use crate::temp::Kind;

/// Gaps between pieces that are here, at the most. Senders begin pieces in order, so what they have under way makes far
/// fewer; a lying one pays for each with a record that is longer than what we keep of it.
const GAPS_MAX: usize = 1 << 17;

/// The old file that a delta refers to.
pub struct Basis {
    pub file: OwnedFd,
    pub size: u64,
}

/// A temporary file of an earlier session, to be continued.
pub struct Partial {
    pub file: OwnedFd,
    pub temp: Vec<u8>,
    /// The pieces that it holds, ascending, and their hashes; without those that are holes.
    pub held: Vec<(u32, [u8; 32])>,
}

/// One such file.
#[derive(Default)]
pub struct Large {
    pub basis: Option<Basis>,
    /// Bytes of the signature that the sender holds; None without a BASIS.
    pub signed: Option<u64>,
    /// `Durable::failures` before it was begun, or fewer.
    pub born: u64,
    written: Mutex<Written>,
    /// Held while a piece is written: the kernel lets one writer at a file, and has the others spin.
    writing: Mutex<()>,
    inner: Mutex<Inner>,
}

/// What of the temporary file was written.
#[derive(Default)]
struct Written {
    /// Pieces that are there before they came, by number, and their hashes: a partial's, as read from disk, or the
    /// basis's.
    held: HashMap<u32, [u8; 32]>,
    /// Pieces that came, or are being written.
    came: Subtrees,
    /// Pieces of the basis that were put there before it was known whether they stay; and how many did.
    anticipated: u32,
    confirmed: u32,
    /// Since when as many are as may be.
    full: Option<Instant>,
    /// Nothing is put there that did not come.
    only_data: bool,
    /// Something may be where a hole comes.
    dirty: bool,
}

impl Written {
    /// Whether one more piece may be put in place untold.
    fn has_room(&self) -> bool {
        let most = ANTICIPATED_MIN.saturating_add(self.confirmed.saturating_mul(2));
        !self.only_data && self.anticipated < most
    }

    fn came(&mut self, record: &Record, count: u32) {
        self.held.remove(&record.piece);
        // Which pieces, not what is in them.
        let _ = self
            .came
            .add_holes(record.piece, count, piece::count(record.size) as u32);
    }
}

/// So many pieces of the basis are put in place untold; after that, so many as there are that stay.
const ANTICIPATED_MIN: u32 = 32;

/// While as many are in place as may be, signing waits so long for word of them: what is signed meanwhile would have to be
/// read and hashed again to be put there. Without such word the file is another one, and the signature is what counts.
const PATIENCE: Duration = Duration::from_millis(20);

/// A temporary file and its name.
type Temp = (Arc<OwnedFd>, Vec<u8>);

#[derive(Default)]
struct Inner {
    file: Option<Temp>,
    size: Option<u64>,
    values: Subtrees,
    end: Option<Record>,
    /// Instead of END: how many pieces the sender sent before it had trouble.
    sent: Option<u32>,
    broken: bool,
    /// Why, when that was not told: the file may be asked for once more.
    wrong: Option<Wrong>,
}

/// What a record made of the file.
pub enum Progress {
    /// More is to come.
    Partly,
    /// Everything is here and fits its hash: the temporary file to commit, and the END record.
    Whole(Arc<OwnedFd>, Vec<u8>, Record),
    /// Everything that will come came, but not all of it was sent or could be kept; how it is wrong, or None: that was
    /// told.
    Broken(Option<Wrong>),
    /// Everything came, but it is not the file that was sent.
    Wrong,
}

impl Large {
    /// Nothing is here of it.
    pub fn new(born: u64) -> Self {
        Self {
            born,
            ..Self::default()
        }
    }

    /// With what is here of it: a basis, a signature of `signed` bytes of which goes to the sender, and a partial.
    pub fn with(partial: Option<Partial>, basis: Option<Basis>, signed: u64) -> Self {
        let mut written = Written::default();
        let file = partial.map(|partial| {
            (written.only_data, written.dirty) = (true, true);
            written.held = partial.held.into_iter().collect();
            (Arc::new(partial.file), partial.temp)
        });
        let inner = Inner {
            file,
            ..Inner::default()
        };
        Self {
            basis,
            signed: Some(signed),
            born: 0,
            written: Mutex::new(written),
            writing: Mutex::default(),
            inner: Mutex::new(inner),
        }
    }

    /// Puts a piece of the basis, whose hash is `value`, where it may well belong; not when another came, or most of the
    /// pieces before it do not stay. `write` says whether it could be kept.
    pub fn anticipate(&self, number: u32, value: [u8; 32], write: impl FnOnce() -> io::Result<bool>) {
        {
            let mut written = lock(&self.written);
            if !written.has_room() || written.came.holds_any(number, 1) {
                return;
            }
            written.dirty = true;
            written.anticipated += 1;
            written.full = (!written.has_room()).then(Instant::now);
        }
        let _alone = lock(&self.writing);
        // What comes is written behind us: over this piece, when it is the same.
        if lock(&self.written).came.holds_any(number, 1) {
            return;
        }
        let kept = write();
        let mut written = lock(&self.written);
        match kept {
            Ok(true) if written.came.holds_any(number, 1) => {}
            Ok(true) => drop(written.held.insert(number, value)),
            // What is wrong is told when the piece itself cannot be kept.
            _ => written.only_data = true,
        }
    }

    /// When more of the basis may be signed: now, or when no word of what was put in place has come until then.
    pub fn due(&self) -> Option<Instant> {
        let written = lock(&self.written);
        let full = written.full.filter(|_| !written.only_data && !written.has_room())?;
        Some(full + PATIENCE).filter(|due| *due > Instant::now())
    }

    /// Whether the piece that came is there already.
    pub fn holds(&self, record: &Record) -> bool {
        let mut written = lock(&self.written);
        let holds = written.held.get(&record.piece) == Some(&record.hash);
        if holds {
            written.came(record, 1);
            written.confirmed += 1;
        }
        holds
    }

    /// Has `write` put `count` pieces that came in place; it is told whether something may be there already.
    pub fn write<T>(&self, record: &Record, count: u32, write: impl FnOnce(bool) -> T) -> T {
        let dirty = {
            let mut written = lock(&self.written);
            written.came(record, count);
            written.dirty
        };
        let _alone = lock(&self.writing);
        write(dirty)
    }

    /// The file to write to, made when there is none yet; None when the file is broken already.
    pub fn file(&self, shared: &Shared, dir: &OwnedFd, name: &[u8]) -> io::Result<Option<Arc<OwnedFd>>> {
        let mut inner = lock(&self.inner);
        if inner.broken {
            return Ok(None);
        }
        if let Some((file, _)) = &inner.file {
            return Ok(Some(Arc::clone(file)));
        }
        let temp = shared.namer.name(Kind::Temp, name);
        let file = Arc::new(beneath::create_readable_at(dir, &temp)?);
        inner.file = Some((Arc::clone(&file), temp));
        Ok(Some(file))
    }

    /// Checks that `count` pieces from a PIECE on fit what came before. How many bytes they have.
    pub fn check_untrusted(&self, record: &Record, count: u32) -> Result<u64, &'static str> {
        let mut inner = lock(&self.inner);
        inner.size_untrusted(record.size)?;
        let from = u64::from(record.piece) * PIECE as u64;
        if count == 0 || u64::from(record.piece) + u64::from(count) > piece::count(record.size) {
            return Err("a piece beyond its file");
        }
        if inner.values.holds_any(record.piece, count) {
            return Err("a piece that came twice");
        }
        if inner.values.fragments() > GAPS_MAX {
            return Err("more pieces out of order than can be under way");
        }
        Ok((record.size - from).min(u64::from(count) * PIECE as u64))
    }

    /// Pieces are in the file (`kept`) or could not be kept: one, or `count` of a hole.
    pub fn piece_untrusted(&self, record: &Record, count: u32, kept: bool) -> Result<Progress, &'static str> {
        let mut inner = lock(&self.inner);
        let pieces = piece::count(record.size) as u32;
        let fresh = if record.encoding == record::HOLE {
            inner.values.add_holes(record.piece, count, pieces)
        } else {
            inner.values.add(record.piece, record.hash, pieces)
        };
        if !fresh {
            return Err("a piece that came twice");
        }
        inner.broken |= !kept;
        Ok(inner.progress())
    }

    /// END came.
    pub fn end_untrusted(&self, record: &Record) -> Result<Progress, &'static str> {
        let mut inner = lock(&self.inner);
        inner.size_untrusted(record.size)?;
        if inner.end.is_some() || inner.sent.is_some() {
            return Err("an END that came twice");
        }
        inner.end = Some(*record);
        Ok(inner.progress())
    }

    /// The sender had trouble behind so many pieces: these come yet, or did. None: that was told.
    pub fn give_up_untrusted(&self, sent: u32, wrong: Option<Wrong>) -> Result<Progress, &'static str> {
        let mut inner = lock(&self.inner);
        if inner.end.is_some() || inner.sent.is_some() {
            return Err("an END that came twice");
        }
        inner.sent = Some(sent);
        let told = inner.broken && inner.wrong.is_none();
        inner.wrong = wrong.filter(|_| !told);
        inner.broken = true;
        Ok(inner.progress())
    }

    /// The file is not kept: its temporary file, to be removed, and whether this is the first trouble with it. `wrong`
    /// says which; None: it is told.
    pub fn spoil(&self, wrong: Option<Wrong>) -> (bool, Option<Temp>) {
        let mut inner = lock(&self.inner);
        let first = !std::mem::replace(&mut inner.broken, true);
        if first {
            inner.wrong = wrong;
        }
        (first, inner.file.take())
    }

    /// The partial file, to be removed or kept: nothing is added to it any more.
    pub fn abandon(&self) -> Option<Temp> {
        self.spoil(None).1
    }
}

impl Inner {
    fn size_untrusted(&mut self, size: u64) -> Result<(), &'static str> {
        if size <= PIECE as u64 || piece::count(size) > u32::MAX.into() {
            return Err("a file that is too small for pieces, or too large");
        }
        if *self.size.get_or_insert(size) != size {
            return Err("pieces that disagree on their file's size");
        }
        Ok(())
    }

    fn progress(&mut self) -> Progress {
        let have = self.values.have();
        if let Some(sent) = self.sent {
            return if have < sent.into() {
                Progress::Partly
            } else {
                Progress::Broken(self.wrong)
            };
        }
        let (Some(end), Some(size)) = (self.end, self.size) else {
            return Progress::Partly;
        };
        if have != piece::count(size) {
            return Progress::Partly;
        }
        if self.broken {
            return Progress::Broken(self.wrong);
        }
        if self.values.file_hash(size) != end.hash {
            return Progress::Wrong;
        }
        match self.file.take() {
            Some((file, temp)) => Progress::Whole(file, temp, end),
            None => Progress::Broken(self.wrong),
        }
    }
}
