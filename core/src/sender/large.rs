//! A file of more than one piece while its pieces are read, by any number of readers at once.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Mutex;

use crate::beneath::{self, Meta, lock};
use crate::buffer;
use crate::delta::{self, Matcher};
use crate::holes;
use crate::piece::{self, PIECE, Subtrees};
use crate::profile::Stage;
use crate::record::{self, Record};

use super::basis::Known;
use super::engine::Engine;
use super::read::{self, Trouble};

/// With a basis a reader takes so many pieces in a row: a match found at the end of one goes on in the next.
const RUN: u32 = 8;

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
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Pieces that readers took, and those that they are done with.
    next: u32,
    done: u32,
    trouble: Option<Trouble>,
    /// Pieces that were sent.
    values: Subtrees,
}

impl Large {
    /// Begins to send an open file that is larger than a piece.
    pub fn new(n: u32, index: u32, file: OwnedFd, meta: Meta, known: Known) -> Result<Self, Trouble> {
        let pieces = u32::try_from(piece::count(meta.size)).map_err(|_| Trouble::too_large())?;
        #[cfg(target_os = "linux")]
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
        let sparse = holes::may_have(&file, meta.size);
        Ok(Self {
            n,
            index,
            file,
            meta,
            pieces,
            sparse,
            known,
            state: Mutex::default(),
        })
    }

    /// The next pieces that no reader has; None: there are none, or no more are needed.
    pub fn next_pieces(&self) -> Option<Range<u32>> {
        let mut state = lock(&self.state);
        if state.trouble.is_some() || state.next == self.pieces {
            return None;
        }
        let run = if self.known.blocks.is_some() { RUN } else { 1 };
        let first = state.next;
        state.next += run.min(self.pieces - first);
        Some(first..state.next)
    }

    /// Reads pieces and sends them; after the last ones, the file's END or its problem.
    pub fn send(&self, pieces: Range<u32>, engine: &Engine) {
        let mut matcher = self.known.blocks.as_ref().map(|(matcher, _)| matcher.clone());
        let mut taken = pieces;
        let mut trouble = None;
        let mut at = taken.start;
        while at < taken.end {
            if engine.is_stopped() {
                return;
            }
            let sent = match self.hole(at, &mut taken) {
                hole if !hole.is_empty() => self.send_hole(&hole, engine).map(|()| hole.end),
                _ => self.piece(at, matcher.as_mut(), engine).map(|()| at + 1),
            };
            match sent {
                Ok(next) => at = next,
                Err(e) => {
                    trouble = Some(e);
                    break;
                }
            }
        }
        let mut state = lock(&self.state);
        state.done += taken.len() as u32;
        state.trouble = state.trouble.or(trouble);
        // True once: when something went wrong, `next` stays where it is.
        if state.done == state.next && (state.next == self.pieces || state.trouble.is_some()) {
            let values = std::mem::take(&mut state.values);
            let trouble = state.trouble;
            drop(state);
            self.finish(&values, trouble, engine);
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

    fn send_hole(&self, hole: &Range<u32>, engine: &Engine) -> Result<(), Trouble> {
        self.still()?;
        let count = hole.len() as u32;
        let header = Record {
            kind: record::PIECE,
            encoding: record::HOLE,
            piece: hole.start,
            data_len: 4,
            ..read::header(self.n, self.index, &self.meta)
        };
        let mut out = vec![0; record::HEADER];
        header.write(&mut out);
        out.extend_from_slice(&count.to_le_bytes());
        lock(&self.state).values.add_holes(hole.start, count, self.pieces);
        engine.emit(self.n, out, 0);
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

    /// Sends one piece.
    fn piece(&self, number: u32, matcher: Option<&mut Matcher>, engine: &Engine) -> Result<(), Trouble> {
        let offset = u64::from(number) * PIECE as u64;
        let left = self.meta.size - offset;
        let len = left.min(PIECE as u64) as usize;
        // What the matcher wants to see behind the piece.
        let block_len = self
            .known
            .blocks
            .as_ref()
            .map_or(0, |(_, block_len)| u64::from(*block_len));
        let behind = block_len.saturating_sub(1).min(left - len as u64) as usize;
        let mut out = buffer::take(record::HEADER + len + behind);
        out.resize(record::HEADER, 0);
        let profile = &engine.profile;
        let read = read::append(&self.file, &mut out, offset, len + behind, self.sparse)?;
        let gaps = holes::within(read, len);
        let (data, lookahead) = out[record::HEADER..].split_at(len);
        let value = profile.time(Stage::Hash, || piece::chaining_value(data, number, self.meta.size));
        let mut literal = len as u64;
        let mut matched = 0;
        let mut encoding = record::RAW;
        let mut tokens = Vec::new();
        if self.known.pieces.get(&number) == Some(&value) {
            (encoding, literal, matched) = (record::SAME, 0, len as u64);
        } else {
            if let Some(matcher) = matcher {
                tokens.resize(record::HEADER, 0);
                let stats = profile.time(Stage::Delta, || matcher.piece(data, offset, lookahead, &mut tokens));
                if tokens.len() - record::HEADER < len {
                    (encoding, literal, matched) = (record::DELTA, stats.literal, stats.matched);
                }
            }
            if !gaps.is_empty() {
                let plain = tokens.get(record::HEADER..).unwrap_or_default();
                let mut punched = vec![0; record::HEADER];
                let stats = delta::punch(plain, data, &gaps, &mut punched);
                tokens = punched;
                (encoding, literal, matched) = (record::DELTA, stats.literal, stats.matched);
            }
        }
        match encoding {
            record::SAME => out.truncate(record::HEADER),
            record::DELTA => buffer::give(std::mem::replace(&mut out, tokens)),
            _ => out.truncate(record::HEADER + len),
        }
        self.still()?;
        engine.counters.literal(literal);
        engine.counters.matched(matched);
        let header = Record {
            kind: record::PIECE,
            encoding,
            piece: number,
            data_len: (out.len() - record::HEADER) as u32,
            hash: value,
            ..read::header(self.n, self.index, &self.meta)
        };
        header.write(&mut out);
        lock(&self.state).values.add(number, value, self.pieces);
        engine.emit(self.n, out, 0);
        Ok(())
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
