//! A file of more than one piece while its pieces are read, by any number of readers at once.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Mutex;

use crate::beneath::{self, Meta, lock};
use crate::buffer;
use crate::delta::Matcher;
use crate::piece::{self, PIECE};
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
    known: Known,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Pieces that readers took, and those that they are done with.
    next: u32,
    done: u32,
    /// Pieces that were sent.
    sent: u32,
    trouble: Option<Trouble>,
    values: Vec<[u8; 32]>,
}

impl Large {
    /// Begins to send an open file that is larger than a piece.
    pub fn new(n: u32, index: u32, file: OwnedFd, meta: Meta, known: Known) -> Result<Self, Trouble> {
        let pieces = u32::try_from(piece::count(meta.size)).map_err(|_| Trouble::too_large())?;
        #[cfg(target_os = "linux")]
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
        Ok(Self {
            n,
            index,
            file,
            meta,
            pieces,
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
        let mut values = Vec::new();
        let mut trouble = None;
        for number in pieces.clone() {
            if engine.is_stopped() {
                return;
            }
            match self.piece(number, matcher.as_mut(), engine) {
                Ok(value) => values.push(value),
                Err(e) => {
                    trouble = Some(e);
                    break;
                }
            }
        }
        let mut state = lock(&self.state);
        state.done += pieces.len() as u32;
        state.sent += values.len() as u32;
        state.trouble = state.trouble.or(trouble);
        let end = pieces.end as usize;
        if state.values.len() < end {
            state.values.resize(end, [0; 32]);
        }
        state.values[pieces.start as usize..][..values.len()].copy_from_slice(&values);
        // True once: when something went wrong, `next` stays where it is.
        if state.done == state.next && (state.next == self.pieces || state.trouble.is_some()) {
            let values = std::mem::take(&mut state.values);
            let (sent, trouble) = (state.sent, state.trouble);
            drop(state);
            self.finish(&values, sent, trouble, engine);
        }
    }

    /// Sends one piece; its chaining value.
    fn piece(&self, number: u32, matcher: Option<&mut Matcher>, engine: &Engine) -> Result<[u8; 32], Trouble> {
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
        profile.time(Stage::Read, || read::append(&self.file, &mut out, offset, len + behind))?;
        let (data, lookahead) = out[record::HEADER..].split_at(len);
        let value = profile.time(Stage::Hash, || piece::chaining_value(data, number, self.meta.size));
        let mut literal = len as u64;
        let mut encoding = record::RAW;
        let mut tokens = Vec::new();
        if self.known.pieces.get(&number) == Some(&value) {
            (encoding, literal) = (record::SAME, 0);
        } else if let Some(matcher) = matcher {
            tokens.resize(record::HEADER, 0);
            let stats = profile.time(Stage::Delta, || matcher.piece(data, offset, lookahead, &mut tokens));
            if tokens.len() - record::HEADER < len {
                (encoding, literal) = (record::DELTA, stats.literal);
            }
        }
        match encoding {
            record::SAME => out.truncate(record::HEADER),
            record::DELTA => buffer::give(std::mem::replace(&mut out, tokens)),
            _ => out.truncate(record::HEADER + len),
        }
        // Noticed early, so that a file that is being written does not cost all its pieces.
        if beneath::stat(&self.file)? != self.meta {
            return Err(Trouble::changed());
        }
        engine.counters.literal(literal);
        engine.counters.matched(len as u64 - literal);
        let header = Record {
            kind: record::PIECE,
            encoding,
            piece: number,
            data_len: (out.len() - record::HEADER) as u32,
            hash: value,
            ..read::header(self.n, self.index, &self.meta)
        };
        header.write(&mut out);
        engine.emit(self.n, out, 0);
        Ok(value)
    }

    fn finish(&self, values: &[[u8; 32]], sent: u32, trouble: Option<Trouble>, engine: &Engine) {
        let unchanged = beneath::stat(&self.file).is_ok_and(|meta| meta == self.meta);
        let trouble = trouble.or_else(|| (!unchanged).then(Trouble::changed));
        let header = match trouble {
            Some(trouble) => Record {
                piece: sent,
                ..trouble.record(self.n, self.index)
            },
            None => {
                engine.counters.file();
                Record {
                    kind: record::END,
                    hash: piece::file_hash(values, self.meta.size),
                    ..read::header(self.n, self.index, &self.meta)
                }
            }
        };
        let mut out = vec![0; record::HEADER];
        header.write(&mut out);
        engine.emit(self.n, out, 1);
    }
}
