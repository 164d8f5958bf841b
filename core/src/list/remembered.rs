//! What the sender remembers, in a chunk: of some files, the size and time with which it knows their content's blocks.

use super::{REGULAR, u32_at, u64_at};

/// Size and modification time of a regular file, which stand for its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Bytes.
    pub size: u64,
    /// Modification time, seconds.
    pub mtime_s: i64,
    /// Modification time, nanoseconds.
    pub mtime_ns: u32,
}

/// An entry's index in the chunk, and what is remembered of it.
pub type Row = (u32, Stamp);

const COUNT: usize = 4;
const ROW: usize = 24;

/// Appends one; the column begins with how many there are.
pub fn write((index, stamp): Row, out: &mut Vec<u8>) {
    out.resize(out.len().max(COUNT), 0);
    let count = u32_at(out, 0) + 1;
    out[..COUNT].copy_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&index.to_le_bytes());
    out.extend_from_slice(&stamp.mtime_ns.to_le_bytes());
    out.extend_from_slice(&stamp.size.to_le_bytes());
    out.extend_from_slice(&stamp.mtime_s.to_le_bytes());
}

/// Those of a chunk whose entries are of these kinds, and what lies behind them.
pub fn parse_untrusted<'a>(data: &'a [u8], kinds: &[u8]) -> Result<(Vec<Row>, &'a [u8]), &'static str> {
    let (count, rows) = data
        .split_first_chunk::<COUNT>()
        .ok_or("a file-list chunk whose columns do not fill it")?;
    let count = u32::from_le_bytes(*count) as usize;
    let len = count.checked_mul(ROW).filter(|&len| len > 0 && len <= rows.len());
    let (rows, behind) = rows.split_at(len.ok_or("a file-list chunk whose columns do not fill it")?);
    let rows: Vec<Row> = rows.chunks_exact(ROW).map(row).collect();
    if rows.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
        return Err("remembered files out of order");
    }
    let fits = |&(i, stamp): &Row| {
        kinds.get(i as usize) == Some(&REGULAR) && stamp.size <= i64::MAX as u64 && stamp.mtime_ns < 1_000_000_000
    };
    if !rows.iter().all(fits) {
        return Err("a remembered file that is none, or with a size or time out of range");
    }
    Ok((rows, behind))
}

fn row(row: &[u8]) -> Row {
    let stamp = Stamp {
        size: u64_at(row, 8),
        mtime_s: u64_at(row, 16).cast_signed(),
        mtime_ns: u32_at(row, 4),
    };
    (u32_at(row, 0), stamp)
}
