//! A file of more than one piece while its pieces are read, by any number of readers at once.

use std::collections::BTreeSet;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::beneath::{self, Meta, lock};
use crate::buffer;
use crate::delta::{self, Matcher, Stats};
use crate::holes;
use crate::piece::{self, PIECE, Subtrees};
use crate::profile::Stage;
use crate::record::{self, Record};
use crate::signature::{self, Signature, Value};

use super::basis::Known;
use super::engine::Engine;
use super::memo::Memo;
use super::read::{self, Trouble};

/// With a basis a reader takes so many pieces in a row: a match found at the end of one goes on in the next, and small
/// deltas travel together.
const RUN: u32 = 8;
/// While the signature is still coming, pieces that are where they were are found without the rest of it. Where so many
/// more are not than are, the rest is waited for.
const MISSED_MAX: u64 = 16;
/// After so many pieces without a match the search is for a part of the pieces only: the further it went in vain, the
/// smaller a part. What is missed so is at most 1 / `BARREN` of what was sent in vain.
const BARREN: u32 = 8;

/// A large file being sent.
pub struct Large {
    n: u32,
    index: u32,
    file: OwnedFd,
    meta: Meta,
    pieces: u32,
    /// It takes less space than its size: its holes are looked for.
    sparse: bool,
    known: Known,
    memo: Option<Memo>,
    state: Mutex<State>,
    /// Pieces in a row in which nothing of the basis was found.
    barren: AtomicU32,
}

#[derive(Default)]
struct State {
    /// The first piece that no reader took.
    next: u32,
    /// Pieces that wait for the whole signature.
    missed: BTreeSet<u32>,
    /// Readers at work.
    busy: u32,
    trouble: Option<Trouble>,
    /// Pieces that were sent.
    values: Subtrees,
}

/// What a large file has for a reader.
pub enum Next {
    /// To read these pieces, in order.
    Pieces(Range<u32>),
    /// Nothing before more of the signature comes, or another reader is done.
    Later,
    /// Nothing any more.
    Nothing,
}

impl Large {
    /// Begins to send an open file that is larger than a piece.
    pub fn new(
        (n, index): (u32, u32),
        file: OwnedFd,
        meta: Meta,
        sparse: bool,
        known: Known,
        memo: Option<Memo>,
    ) -> Result<Self, Trouble> {
        let pieces = u32::try_from(piece::count(meta.size)).map_err(|_| Trouble::too_large())?;
        #[cfg(target_os = "linux")]
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
        Ok(Self {
            n,
            index,
            file,
            meta,
            pieces,
            sparse,
            known,
            memo,
            state: Mutex::default(),
            barren: AtomicU32::new(0),
        })
    }

    /// Gives a reader its next pieces; `work` takes them back.
    pub fn next(&self) -> Next {
        let mut state = lock(&self.state);
        if state.trouble.is_some() || state.values.have() == u64::from(self.pieces) {
            return Next::Nothing;
        }
        let run = match &self.known.basis {
            None if state.next == self.pieces => return Next::Nothing,
            None => state.next..state.next + 1,
            Some(basis) => {
                let complete = basis.is_complete();
                let known = (basis.known().1 / PIECE as u64).min(u64::from(self.pieces)) as u32;
                let end = if complete { self.pieces } else { known };
                match state.missed.first() {
                    Some(&first) if complete => {
                        let mut end = first;
                        while end < first + RUN && state.missed.remove(&end) {
                            end += 1;
                        }
                        first..end
                    }
                    _ if state.next >= end
                        || !complete && state.missed.len() as u64 >= MISSED_MAX + state.values.have() =>
                    {
                        return Next::Later;
                    }
                    _ => state.next..end.min(state.next + RUN),
                }
            }
        };
        state.next = state.next.max(run.end);
        state.busy += 1;
        Next::Pieces(run)
    }

    /// Reads pieces and sends them; after the last ones, the file's END or its problem.
    pub fn work(&self, pieces: Range<u32>, engine: &Engine) {
        let basis = self.known.basis.as_ref();
        let mut run = Run {
            engine,
            matcher: None,
            piece: Vec::new(),
            tokens: Vec::new(),
            out: Vec::new(),
        };
        let (mut taken, mut at) = (pieces.clone(), pieces.start);
        let mut trouble = None;
        while at < taken.end {
            if engine.is_stopped() {
                return;
            }
            let sent = match self.hole(at, &mut taken) {
                hole if !hole.is_empty() => self.send_hole(&hole, &mut run).map(|()| hole.end),
                _ => self.piece(at, &mut run).map(|()| at + 1),
            };
            match sent {
                Ok(next) => at = next,
                Err(e) => {
                    trouble = Some(e);
                    break;
                }
            }
        }
        run.finish(self.n);
        let mut state = lock(&self.state);
        state.busy -= 1;
        state.trouble = state.trouble.or(trouble);
        // True once: nothing is taken any more.
        let done = state.values.have() == u64::from(self.pieces) || state.trouble.is_some();
        if state.busy == 0 && done {
            let values = std::mem::take(&mut state.values);
            let trouble = state.trouble;
            drop(state);
            self.finish(&values, trouble, engine);
        } else {
            drop(state);
        }
        if basis.is_some() {
            engine.queue.look_again();
        }
    }

    /// The pieces from `at` on that are one hole. Those behind `taken` that no reader has are taken as well; the run ends
    /// where another reader's begin.
    fn hole(&self, at: u32, taken: &mut Range<u32>) -> Range<u32> {
        if !self.sparse {
            return at..at;
        }
        let from = u64::from(at) * PIECE as u64;
        let data = holes::next_data(&self.file, from..self.meta.size);
        let end = if data == self.meta.size {
            self.pieces
        } else {
            (data / PIECE as u64) as u32
        };
        if end > taken.end {
            let mut state = lock(&self.state);
            if state.next == taken.end && state.trouble.is_none() {
                (state.next, taken.end) = (end, end);
            }
        }
        at..end.min(taken.end).max(at)
    }

    fn send_hole(&self, hole: &Range<u32>, run: &mut Run) -> Result<(), Trouble> {
        self.still()?;
        let count = hole.len() as u32;
        let header = Record {
            kind: record::PIECE,
            encoding: record::HOLE,
            piece: hole.start,
            data_len: 4,
            ..read::header(self.n, self.index, &self.meta)
        };
        run.tokens.clear();
        run.tokens.extend_from_slice(&count.to_le_bytes());
        run.emit(self.n, &header, 0);
        lock(&self.state).values.add_holes(hole.start, count, self.pieces);
        Ok(())
    }

    /// Noticed early, so that a file that is being written does not cost all its pieces.
    fn still(&self) -> Result<(), Trouble> {
        if beneath::stat(&self.file)? == self.meta {
            Ok(())
        } else {
            Err(Trouble::changed())
        }
    }

    /// Sends one piece, or puts it off until the signature is complete.
    fn piece(&self, number: u32, run: &mut Run) -> Result<(), Trouble> {
        let engine = run.engine;
        let offset = u64::from(number) * PIECE as u64;
        let len = (self.meta.size - offset).min(PIECE as u64) as usize;
        if run.piece.capacity() == 0 {
            run.piece = buffer::take(record::HEADER + len);
        }
        run.piece.clear();
        run.piece.resize(record::HEADER, 0);
        let profile = &engine.profile;
        let read = read::append(&self.file, &mut run.piece, offset, len, self.sparse)?;
        let gaps = holes::within(read, len);
        let data = &run.piece[record::HEADER..];
        let Sums { own, noted, value } = profile.time(Stage::Hash, || self.sums(data, offset));
        let weak = profile.time(Stage::Sign, || self.weak(data, offset, &own));
        let Some((mut encoding, mut stats)) = self.encode(number, &value, &own, run)? else {
            lock(&self.state).missed.insert(number);
            return Ok(());
        };
        if !gaps.is_empty() && encoding != record::SAME {
            let mut punched = Vec::new();
            let data = &run.piece[record::HEADER..][..len];
            stats = delta::punch(&run.tokens, data, &gaps, &mut punched);
            (encoding, run.tokens) = (record::DELTA, punched);
        }
        self.still()?;
        engine.counters.literal(stats.literal);
        engine.counters.matched(stats.matched);
        let header = Record {
            kind: record::PIECE,
            encoding,
            piece: number,
            data_len: match encoding {
                record::SAME => 0,
                record::DELTA => run.tokens.len() as u32,
                _ => len as u32,
            },
            hash: value,
            ..read::header(self.n, self.index, &self.meta)
        };
        run.emit(self.n, &header, len);
        if let Some(memo) = &self.memo {
            memo.add(offset, &weak, &noted);
        }
        lock(&self.state).values.add(number, value, self.pieces);
        Ok(())
    }

    /// Hashes a piece once, by the shortest blocks that anything needs.
    fn sums(&self, data: &[u8], offset: u64) -> Sums {
        let basis = self.known.basis.as_ref().map(|basis| basis.known().0);
        let memo = self.memo.as_ref().map(Memo::block_len);
        let size = data.len() as u64;
        let Some(shortest) = basis.into_iter().chain(memo).min() else {
            return Sums {
                value: piece::chaining_value(data, (offset / PIECE as u64) as u32, self.meta.size),
                ..Sums::default()
            };
        };
        let values = signature::values(data, offset, shortest);
        let of = |block_len: u32| signature::coarser(&values, size, shortest, block_len);
        Sums {
            own: basis.map(of).unwrap_or_default(),
            noted: memo.map(of).unwrap_or_default(),
            value: signature::merged(&values, size, shortest),
        }
    }

    /// The weak sums of a piece's blocks for the memory; those of the basis, where it has the same blocks.
    fn weak(&self, data: &[u8], offset: u64, own: &[Value]) -> Vec<u32> {
        let Some(memo) = &self.memo else { return Vec::new() };
        let basis = self.known.basis.as_ref();
        let same = basis.filter(|basis| basis.known().0 == memo.block_len());
        same.and_then(|basis| basis.weak_of(offset, data.len() as u64, own))
            .unwrap_or_else(|| signature::weak(data, memo.block_len()))
    }

    /// Says how to send the piece in `run`, whose hash is `value` and whose blocks' are `own`, and what of it is literal;
    /// the tokens, if any, are in `run` then. None: that is not known before the signature is complete.
    fn encode(
        &self,
        number: u32,
        value: &[u8; 32],
        own: &[Value],
        run: &mut Run,
    ) -> Result<Option<(u8, Stats)>, Trouble> {
        let offset = u64::from(number) * PIECE as u64;
        let len = run.piece.len() - record::HEADER;
        run.tokens.clear();
        let all = |literal: bool| Stats {
            literal: if literal { len as u64 } else { 0 },
            matched: if literal { 0 } else { len as u64 },
            wasted: 0,
        };
        if self.known.pieces.get(&number) == Some(value) {
            return Ok(Some((record::SAME, all(false))));
        }
        let raw = (record::RAW, all(true));
        let Some(basis) = &self.known.basis else {
            return Ok(Some(raw));
        };
        if basis.has(offset, len as u64, own) {
            self.barren.store(0, Ordering::Relaxed);
            delta::copy(offset, len as u32, &mut run.tokens);
            return Ok(Some((record::DELTA, all(false))));
        }
        if run.matcher.is_none() {
            run.matcher = self.known.matcher(&run.engine.profile).cloned();
        }
        let Some(matcher) = &mut run.matcher else {
            return Ok(None);
        };
        if !self.is_searched(matcher.signature(), offset, own) {
            return Ok(Some(raw));
        }
        let behind = offset + len as u64;
        let ahead = u64::from(matcher.signature().block_len - 1).min(self.meta.size - behind);
        let profile = &run.engine.profile;
        read::append(&self.file, &mut run.piece, behind, ahead as usize, self.sparse)?;
        let before = matcher.lookbehind(offset);
        if before > 0 {
            let mut preceding = Vec::new();
            read::append(
                &self.file,
                &mut preceding,
                offset - before,
                before as usize,
                self.sparse,
            )?;
            matcher.precede(preceding);
        }
        let (data, lookahead) = run.piece[record::HEADER..].split_at(len);
        let stats = profile.time(Stage::Delta, || {
            matcher.piece(data, offset, own, lookahead, &mut run.tokens)
        });
        if stats.matched > 0 {
            self.barren.store(0, Ordering::Relaxed);
        }
        if run.tokens.len() >= len {
            run.tokens.clear();
            return Ok(Some(raw));
        }
        Ok(Some((record::DELTA, stats)))
    }

    /// Whether to look for the basis's blocks in the piece at `offset`, of which these are its own. Always, but for a part
    /// of the pieces where none were found for long.
    fn is_searched(&self, signature: &Signature, offset: u64, own: &[Value]) -> bool {
        let barren = self.barren.fetch_add(1, Ordering::Relaxed);
        let in_place = || {
            let block_len = u64::from(signature.block_len);
            own.iter()
                .zip((offset..).step_by(block_len as usize))
                .any(|(value, at)| signature.has(at, block_len, std::slice::from_ref(value)))
        };
        barren.is_multiple_of((barren / BARREN).max(1)) || in_place()
    }

    fn finish(&self, values: &Subtrees, trouble: Option<Trouble>, engine: &Engine) {
        let unchanged = beneath::stat(&self.file).is_ok_and(|meta| meta == self.meta);
        let trouble = trouble.or_else(|| (!unchanged).then(Trouble::changed));
        let header = match trouble {
            Some(trouble) => Record {
                piece: values.have() as u32,
                ..trouble.record(self.n, self.index)
            },
            None => {
                engine.counters.file();
                if let Some(memo) = &self.memo {
                    memo.keep();
                }
                Record {
                    kind: record::END,
                    hash: values.file_hash(self.meta.size),
                    ..read::header(self.n, self.index, &self.meta)
                }
            }
        };
        let mut out = vec![0; record::HEADER];
        header.write(&mut out);
        engine.emit(self.n, out, 1);
    }
}

/// The values of a piece: of its blocks, as long as those of the basis and of the memory, and its own.
#[derive(Default)]
struct Sums {
    own: Vec<Value>,
    noted: Vec<Value>,
    value: Value,
}

/// Pieces that one reader reads in a row.
struct Run<'a> {
    engine: &'a Engine,
    matcher: Option<Matcher>,
    /// Room for a header, then the piece and what is looked at behind it.
    piece: Vec<u8>,
    tokens: Vec<u8>,
    /// Records of which several go out together.
    out: Vec<u8>,
}

impl Run<'_> {
    /// Sends a piece of `len` bytes as its header says.
    fn emit(&mut self, n: u32, header: &Record, len: usize) {
        if header.encoding == record::RAW {
            let mut raw = std::mem::take(&mut self.piece);
            raw.truncate(record::HEADER + len);
            header.write(&mut raw);
            self.engine.emit(n, raw, 0);
            return;
        }
        if self.out.len() + record::HEADER + header.data_len as usize > self.engine.queue.batch_max() {
            self.flush(n);
        }
        let at = self.out.len();
        self.out.resize(at + record::HEADER, 0);
        header.write(&mut self.out[at..]);
        if header.data_len > 0 {
            self.out.extend_from_slice(&self.tokens);
        }
    }

    fn flush(&mut self, n: u32) {
        if !self.out.is_empty() {
            self.engine.emit(n, std::mem::take(&mut self.out), 0);
        }
    }

    fn finish(mut self, n: u32) {
        self.flush(n);
        buffer::give(self.piece);
    }
}
