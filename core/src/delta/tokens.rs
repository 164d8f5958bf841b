//! The tokens of a delta: written by the matcher, applied by the receiver.

use std::io;
use std::ops::Range;

use super::Stats;
use crate::holes::HOLE_MIN;

pub(super) const LITERAL: u8 = 0;
pub(super) const COPY: u8 = 1;
pub(super) const HOLE: u8 = 2;
/// Bytes of a copy.
pub const COPY_LEN: usize = 13;
/// Well below what a length field holds.
const TOKEN_MAX: usize = 1 << 30;

/// Writes tokens, neighbouring copies as one.
pub(super) struct Tokens<'a> {
    pub(super) out: &'a mut Vec<u8>,
    pub(super) window: &'a [u8],
    /// How much of the window the tokens make, the pending copy included.
    pub(super) done: usize,
    /// Not written yet: where in the basis, how long.
    pub(super) copy: Option<(u64, usize)>,
    pub(super) stats: Stats,
}

impl Tokens<'_> {
    pub(super) fn copy(&mut self, at: usize, basis: u64, len: usize) {
        self.literal(at);
        self.done = at + len;
        self.stats.matched += len as u64;
        match &mut self.copy {
            Some((begin, so_far)) if *begin + *so_far as u64 == basis && *so_far + len <= TOKEN_MAX => *so_far += len,
            _ => {
                self.flush();
                self.copy = Some((basis, len));
            }
        }
    }

    /// What is not done before `until` is literal.
    pub(super) fn literal(&mut self, until: usize) {
        if self.done == until {
            return;
        }
        self.flush();
        for bytes in self.window[self.done..until].chunks(TOKEN_MAX) {
            self.out.push(LITERAL);
            self.out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            self.out.extend_from_slice(bytes);
            self.stats.literal += bytes.len() as u64;
        }
        self.done = until;
    }

    /// Zeros that nothing was ever written to: they are neither literal nor matched.
    pub(super) fn hole(&mut self, range: &Range<usize>) {
        self.literal(range.start);
        self.flush();
        self.out.push(HOLE);
        self.out.extend_from_slice(&(range.len() as u32).to_le_bytes());
        self.done = range.end;
    }

    pub(super) fn flush(&mut self) {
        if let Some((basis, len)) = self.copy.take() {
            copy(basis, len as u32, self.out);
        }
    }

    pub(super) fn finish(mut self) -> Stats {
        self.literal(self.window.len());
        self.flush();
        self.stats
    }
}

/// Appends the token for `len` bytes of the basis.
pub fn copy(basis: u64, len: u32, out: &mut Vec<u8>) {
    out.push(COPY);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&basis.to_le_bytes());
}

/// Why tokens were not applied.
#[derive(Debug)]
pub enum ApplyError {
    /// They break the protocol; how.
    Violation(&'static str),
    /// The basis could not be read.
    Io(io::Error),
}

/// Fills `out`, a piece, from a peer's tokens; where it has holes goes to `holes`, in order.
///
/// `read_basis(offset, buffer)` fills its buffer from a basis of `basis_size` bytes; it is asked for nothing else.
pub fn apply_untrusted(
    tokens: &[u8],
    basis_size: u64,
    mut read_basis: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
    out: &mut [u8],
    holes: &mut Vec<Range<usize>>,
) -> Result<Stats, ApplyError> {
    let piece_len = out.len();
    let mut room = out;
    let mut stats = Stats::default();
    let mut rest = tokens;
    while let Some((&kind, after)) = rest.split_first() {
        let (len, after) = after
            .split_first_chunk()
            .ok_or(ApplyError::Violation("delta: truncated"))?;
        let len = u32::from_le_bytes(*len);
        if len == 0 {
            return Err(ApplyError::Violation("delta: empty token"));
        }
        let (here, left) = room
            .split_at_mut_checked(len as usize)
            .ok_or(ApplyError::Violation("delta: longer than its piece"))?;
        rest = match kind {
            LITERAL => {
                let split = after.split_at_checked(here.len());
                let (literal, after) = split.ok_or(ApplyError::Violation("delta: truncated"))?;
                here.copy_from_slice(literal);
                stats.literal += u64::from(len);
                after
            }
            COPY => {
                let (offset, after) = after
                    .split_first_chunk()
                    .ok_or(ApplyError::Violation("delta: truncated"))?;
                let offset = u64::from_le_bytes(*offset);
                if basis_size
                    .checked_sub(offset)
                    .is_none_or(|behind| behind < u64::from(len))
                {
                    return Err(ApplyError::Violation("delta: copies from outside the basis"));
                }
                read_basis(offset, here).map_err(ApplyError::Io)?;
                stats.matched += u64::from(len);
                after
            }
            HOLE if here.len() < HOLE_MIN => return Err(ApplyError::Violation("delta: a hole that is none")),
            HOLE => {
                here.fill(0);
                let end = piece_len - left.len();
                holes.push(end - here.len()..end);
                after
            }
            _ => return Err(ApplyError::Violation("delta: unknown token")),
        };
        room = left;
    }
    if room.is_empty() {
        Ok(stats)
    } else {
        Err(ApplyError::Violation("delta: shorter than its piece"))
    }
}
