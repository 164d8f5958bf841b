//! A wanted file that arrives in pieces, or is made from a basis.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use super::Shared;
use crate::beneath::{self, lock};
use crate::piece::{self, PIECE};
use crate::record::Record;
use crate::temp::Kind;

/// A piece may come this far ahead of the highest one before it: more than any data window holds. It bounds what a
/// lying peer can make us allocate.
const AHEAD_MAX: usize = 4096;

/// The old file that a delta refers to.
pub struct Basis {
    pub file: OwnedFd,
    pub size: u64,
}

/// A temporary file of an earlier session, to be continued.
pub struct Partial {
    pub file: OwnedFd,
    pub temp: Vec<u8>,
    /// Hashes of its pieces.
    pub held: Vec<[u8; 32]>,
}

/// One such file.
#[derive(Default)]
pub struct Large {
    pub basis: Option<Basis>,
    /// Hashes of the pieces that a partial holds, as read from disk.
    pub held: Vec<[u8; 32]>,
    /// Bytes of the signature that the sender holds; None without a BASIS.
    pub signed: Option<u64>,
    /// Held while a piece is written: the kernel lets one writer at a file, and has the others spin.
    pub writing: Mutex<()>,
    inner: Mutex<Inner>,
}

/// A temporary file and its name.
type Temp = (Arc<OwnedFd>, Vec<u8>);

#[derive(Default)]
struct Inner {
    file: Option<Temp>,
    size: Option<u64>,
    hashes: Vec<Option<[u8; 32]>>,
    have: usize,
    end: Option<Record>,
    /// Instead of END: how many pieces the sender sent before it had trouble.
    sent: Option<u32>,
    broken: bool,
}

/// What a record made of the file.
pub enum Progress {
    /// More is to come.
    Partly,
    /// Everything is here and fits its hash: the temporary file to commit, and the END record.
    Whole(Arc<OwnedFd>, Vec<u8>, Record),
    /// Everything that will come came, but not all of it was sent or could be kept; the problem was reported.
    Broken,
    /// Everything came, but it is not the file that was sent.
    Wrong,
}

impl Large {
    /// With what is here of it: a basis, a signature of `signed` bytes of which goes to the sender, and a partial.
    pub fn with(partial: Option<Partial>, basis: Option<Basis>, signed: u64) -> Self {
        let (file, held) = partial.map_or((None, Vec::new()), |p| (Some((Arc::new(p.file), p.temp)), p.held));
        let inner = Inner {
            file,
            ..Inner::default()
        };
        Self {
            basis,
            held,
            signed: Some(signed),
            inner: Mutex::new(inner),
            ..Self::default()
        }
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
        let file = Arc::new(beneath::create_at(dir, &temp)?);
        inner.file = Some((Arc::clone(&file), temp));
        Ok(Some(file))
    }

    /// Checks that a PIECE fits what came before. The length of its piece.
    pub fn check_untrusted(&self, record: &Record) -> Result<usize, &'static str> {
        let mut inner = lock(&self.inner);
        if record.size <= PIECE as u64 {
            return Err("a file that is too small for pieces");
        }
        if *inner.size.get_or_insert(record.size) != record.size {
            return Err("pieces that disagree on their file's size");
        }
        let number = record.piece as usize;
        let from = number as u64 * PIECE as u64;
        if from >= record.size || number > inner.hashes.len() + AHEAD_MAX {
            return Err("a piece beyond its file");
        }
        if inner.hashes.get(number).is_some_and(Option::is_some) {
            return Err("a piece that came twice");
        }
        Ok((record.size - from).min(PIECE as u64) as usize)
    }

    /// A piece is in the file (`kept`) or could not be kept.
    pub fn piece(&self, record: &Record, kept: bool) -> Progress {
        let mut inner = lock(&self.inner);
        let number = record.piece as usize;
        if inner.hashes.len() <= number {
            inner.hashes.resize(number + 1, None);
        }
        inner.hashes[number] = Some(record.hash);
        inner.have += 1;
        inner.broken |= !kept;
        inner.progress()
    }

    /// END came.
    pub fn end_untrusted(&self, record: &Record) -> Result<Progress, &'static str> {
        let mut inner = lock(&self.inner);
        if record.size <= PIECE as u64 {
            return Err("a file that is too small for pieces");
        }
        if *inner.size.get_or_insert(record.size) != record.size {
            return Err("pieces that disagree on their file's size");
        }
        if inner.end.is_some() || inner.sent.is_some() {
            return Err("an END that came twice");
        }
        inner.end = Some(*record);
        Ok(inner.progress())
    }

    /// The sender had trouble behind so many pieces: these come yet, or did.
    pub fn give_up_untrusted(&self, sent: u32) -> Result<Progress, &'static str> {
        let mut inner = lock(&self.inner);
        if inner.end.is_some() || inner.sent.is_some() {
            return Err("an END that came twice");
        }
        inner.sent = Some(sent);
        inner.broken = true;
        Ok(inner.progress())
    }

    /// The partial file, to be removed or kept: nothing is added to it any more. And whether this is the first trouble
    /// with it.
    pub fn abandon(&self) -> (bool, Option<Temp>) {
        let mut inner = lock(&self.inner);
        (!std::mem::replace(&mut inner.broken, true), inner.file.take())
    }
}

impl Inner {
    fn progress(&mut self) -> Progress {
        if let Some(sent) = self.sent {
            return if self.have < sent as usize {
                Progress::Partly
            } else {
                Progress::Broken
            };
        }
        let (Some(end), Some(size)) = (self.end, self.size) else {
            return Progress::Partly;
        };
        if self.have as u64 != size.div_ceil(PIECE as u64) {
            return Progress::Partly;
        }
        if self.broken {
            return Progress::Broken;
        }
        let hashes: Vec<[u8; 32]> = self.hashes.iter().flatten().copied().collect();
        if hashes.len() != self.have || piece::file_hash(&hashes, size) != end.hash {
            return Progress::Wrong;
        }
        match self.file.take() {
            Some((file, temp)) => Progress::Whole(file, temp, end),
            None => Progress::Broken,
        }
    }
}
