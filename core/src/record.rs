//! DATA records: file content on its way. Layout: docs/protocol.md, DATA.

use crate::list::{array, u16_at, u32_at, u64_at};
use crate::piece;

/// A whole file of at most one piece.
pub const WHOLE: u8 = 1;
/// One piece of a larger file.
pub const PIECE: u8 = 2;
/// All pieces of a file were sent; its hash.
pub const END: u8 = 3;
/// A wanted file that will not come.
pub const PROBLEM: u8 = 4;

/// `data` is the content.
pub const RAW: u8 = 0;
/// `data` is tokens that make it, from the basis where there is one.
pub const DELTA: u8 = 1;
/// No data: the receiver's partial holds this piece.
pub const SAME: u8 = 2;
/// A PIECE and those behind it are one hole; `data` is how many, as u32.
pub const HOLE: u8 = 3;

/// Bytes before a record's data.
pub const HEADER: usize = 80;

/// A record without its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// WHOLE, PIECE, END or PROBLEM.
    pub kind: u8,
    /// RAW, DELTA, SAME or HOLE.
    pub encoding: u8,
    /// Permission bits as of the read.
    pub mode: u16,
    /// Which entry: chunk.
    pub chunk: u32,
    /// Which entry: index in the chunk.
    pub index: u32,
    /// PIECE: which one.
    pub piece: u32,
    /// Bytes of data behind the header.
    pub data_len: u32,
    /// Of the whole file.
    pub size: u64,
    /// Modification time as of the read, seconds.
    pub mtime_s: i64,
    /// Modification time as of the read, nanoseconds.
    pub mtime_ns: u32,
    /// PROBLEM: its errno.
    pub errno: u32,
    /// PROBLEM: its code.
    pub code: u8,
    /// WHOLE and END: of the file; PIECE: its chaining value.
    pub hash: [u8; 32],
}

impl Record {
    /// Writes the header to the first HEADER bytes of `out`.
    pub fn write(&self, out: &mut [u8]) {
        out[0] = self.kind;
        out[1] = self.encoding;
        out[2..4].copy_from_slice(&self.mode.to_le_bytes());
        out[4..8].copy_from_slice(&self.chunk.to_le_bytes());
        out[8..12].copy_from_slice(&self.index.to_le_bytes());
        out[12..16].copy_from_slice(&self.piece.to_le_bytes());
        out[16..20].copy_from_slice(&self.data_len.to_le_bytes());
        out[20..28].copy_from_slice(&self.size.to_le_bytes());
        out[28..36].copy_from_slice(&self.mtime_s.to_le_bytes());
        out[36..40].copy_from_slice(&self.mtime_ns.to_le_bytes());
        out[40..44].copy_from_slice(&self.errno.to_le_bytes());
        out[44] = self.code;
        out[45..48].fill(0);
        out[48..80].copy_from_slice(&self.hash);
    }

    /// Reads the record at `at` and says where the next one begins.
    pub fn parse_untrusted(data: &[u8], at: usize) -> Result<(Self, usize), &'static str> {
        let rest = data.get(at..).unwrap_or_default();
        if rest.len() < HEADER {
            return Err("a data record is cut short");
        }
        let record = Self {
            kind: rest[0],
            encoding: rest[1],
            mode: u16_at(rest, 2),
            chunk: u32_at(rest, 4),
            index: u32_at(rest, 8),
            piece: u32_at(rest, 12),
            data_len: u32_at(rest, 16),
            size: u64_at(rest, 20),
            mtime_s: u64_at(rest, 28).cast_signed(),
            mtime_ns: u32_at(rest, 36),
            errno: u32_at(rest, 40),
            code: rest[44],
            hash: array(&rest[48..]),
        };
        if rest[45..48] != [0; 3] || !matches!(record.kind, WHOLE..=PROBLEM) || record.encoding > HOLE {
            return Err("a data record of an unknown kind");
        }
        if record.mode > 0o7777 || record.mtime_ns >= 1_000_000_000 || record.size > i64::MAX as u64 {
            return Err("a data record with a mode, time or size out of range");
        }
        if rest.len() - HEADER < record.data_len as usize {
            return Err("a data record that names more data than came");
        }
        if record.data_len != 0 && (matches!(record.kind, END | PROBLEM) || record.encoding == SAME) {
            return Err("a data record with data where none belongs");
        }
        if record.encoding == HOLE && (record.kind != PIECE || record.data_len != 4 || record.hash != piece::HOLE) {
            return Err("a hole that is no run of pieces");
        }
        Ok((record, at + HEADER + record.data_len as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_as_it_was_written() {
        let record = Record {
            kind: WHOLE,
            encoding: DELTA,
            mode: 0o4755,
            chunk: 1,
            index: 2,
            data_len: 3,
            size: 4,
            mtime_s: -1,
            mtime_ns: 999_999_999,
            hash: [9; 32],
            ..Record::default()
        };
        let mut out = vec![0; HEADER + 3];
        record.write(&mut out);
        assert_eq!(Record::parse_untrusted(&out, 0), Ok((record, HEADER + 3)));
        for len in 0..out.len() {
            assert!(Record::parse_untrusted(&out[..len], 0).is_err());
        }
        assert!(Record::parse_untrusted(&out, HEADER + 4).is_err());
    }
    #[test]
    fn a_hole_is_a_run_of_pieces_and_nothing_else() {
        let hole = Record {
            kind: PIECE,
            encoding: HOLE,
            data_len: 4,
            ..Record::default()
        };
        let hash = [1; 32];
        for (record, fits) in [
            (hole, true),
            (Record { kind: WHOLE, ..hole }, false),
            (Record { data_len: 3, ..hole }, false),
            (Record { hash, ..hole }, false),
        ] {
            let mut out = vec![0; HEADER + record.data_len as usize];
            record.write(&mut out);
            assert_eq!(Record::parse_untrusted(&out, 0).is_ok(), fits, "{record:?}");
        }
    }
}
