//! BASIS payloads: what a receiver holds of a wanted file, in the layouts of docs/protocol.md.

use super::{BLOCK_MAX, BLOCK_MIN, BLOCKS_MAX, Signature, Strong, Value, block_count, strong};

const HEAD: usize = 9;
const SIGNATURE_HEAD: usize = 36;
const PIECES_HEAD: usize = 16;
const KIND_SIGNATURE: u8 = 1;
const KIND_PIECES: u8 = 2;
const KIND_PIECES_FIRST: u8 = 3;
const KIND_NOTHING: u8 = 4;
const KIND_REMEMBERED: u8 = 5;
/// Bytes of a payload that is its kind alone.
const BARE_LEN: usize = 12;

/// What a BASIS payload is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A part of a signature, for a `SignatureBuilder`.
    Signature,
    /// Pieces of a partial, for `pieces_untrusted`.
    Pieces,
    /// The same; a signature follows.
    PiecesFirst,
    /// Nothing is there of it: a name that was to be linked is to be sent after all.
    Nothing,
    /// The basis is of the size and time that the list remembered: its signature is what the sender remembers.
    Remembered,
}

/// The file that a BASIS payload is about, as (chunk, index), and its kind.
pub fn peek_untrusted(payload: &[u8]) -> Result<(u32, u32, Kind), &'static str> {
    let (Some(chunk), Some(index), Some(kind)) = (u32_at(payload, 0), u32_at(payload, 4), payload.get(8)) else {
        return Err("basis: truncated");
    };
    match *kind {
        KIND_SIGNATURE => Ok((chunk, index, Kind::Signature)),
        KIND_PIECES => Ok((chunk, index, Kind::Pieces)),
        KIND_PIECES_FIRST => Ok((chunk, index, Kind::PiecesFirst)),
        KIND_NOTHING | KIND_REMEMBERED => {
            reserved_untrusted(payload, HEAD)?;
            let kind = match *kind {
                KIND_NOTHING => Kind::Nothing,
                _ => Kind::Remembered,
            };
            match payload.len() {
                BARE_LEN => Ok((chunk, index, kind)),
                _ => Err("basis: length"),
            }
        }
        _ => Err("basis: unknown kind"),
    }
}

/// Appends a BASIS payload: the part of the signature of file (chunk, index) that begins with block `first`.
///
/// `whole` says what the parts have in common; its own sums are not looked at.
pub fn encode_part(
    (chunk, index): (u32, u32),
    whole: &Signature,
    first: u32,
    weak: &[u32],
    values: &[Value],
    last: bool,
    out: &mut Vec<u8>,
) {
    debug_assert_eq!(weak.len(), values.len());
    out.reserve(SIGNATURE_HEAD + 20 * weak.len());
    encode_head(chunk, index, KIND_SIGNATURE, out);
    out.extend_from_slice(&whole.basis_size.to_le_bytes());
    out.extend_from_slice(&whole.block_len.to_le_bytes());
    out.extend_from_slice(&first.to_le_bytes());
    out.extend_from_slice(&(weak.len() as u32).to_le_bytes());
    out.extend_from_slice(&[u8::from(last), 0, 0, 0]);
    weak.iter().for_each(|sum| out.extend_from_slice(&sum.to_le_bytes()));
    values.iter().for_each(|value| out.extend_from_slice(&strong(value)));
}

/// Appends a BASIS payload: the pieces that the receiver's partial of file (chunk, index) holds, with their hashes.
/// `first` says that a signature of its basis follows.
pub fn encode_pieces((chunk, index): (u32, u32), pieces: &[(u32, [u8; 32])], first: bool, out: &mut Vec<u8>) {
    encode_head(chunk, index, if first { KIND_PIECES_FIRST } else { KIND_PIECES }, out);
    out.extend_from_slice(&(pieces.len() as u32).to_le_bytes());
    for (piece, hash) in pieces {
        out.extend_from_slice(&piece.to_le_bytes());
        out.extend_from_slice(hash);
    }
}

/// Appends a BASIS payload that asks for file (chunk, index), of which nothing is there, after all.
pub fn encode_nothing((chunk, index): (u32, u32), out: &mut Vec<u8>) {
    encode_head(chunk, index, KIND_NOTHING, out);
}

/// Appends a BASIS payload that says that the basis of file (chunk, index) is what the sender remembers.
pub fn encode_remembered((chunk, index): (u32, u32), out: &mut Vec<u8>) {
    encode_head(chunk, index, KIND_REMEMBERED, out);
}

fn encode_head(chunk: u32, index: u32, kind: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(&chunk.to_le_bytes());
    out.extend_from_slice(&index.to_le_bytes());
    out.extend_from_slice(&[kind, 0, 0, 0]);
}

/// The pieces in a BASIS payload of that kind, for a file of `pieces` pieces; ascending, so none is named twice.
pub fn pieces_untrusted(payload: &[u8], pieces: u64) -> Result<Vec<(u32, [u8; 32])>, &'static str> {
    if !matches!(peek_untrusted(payload)?.2, Kind::Pieces | Kind::PiecesFirst) {
        return Err("basis: not pieces");
    }
    reserved_untrusted(payload, HEAD)?;
    let count = u32_at(payload, HEAD + 3).ok_or("basis: truncated")?;
    let (rows, rest) = payload[PIECES_HEAD..].as_chunks::<36>();
    if rows.len() as u64 != u64::from(count) || !rest.is_empty() {
        return Err("basis: length");
    }
    let mut found: Vec<(u32, [u8; 32])> = Vec::with_capacity(rows.len());
    for row in rows {
        let mut hash = [0; 32];
        hash.copy_from_slice(&row[4..]);
        let piece = u32_at(row, 0).ok_or("basis: truncated")?;
        if u64::from(piece) >= pieces || found.last().is_some_and(|&(before, _)| before >= piece) {
            return Err("basis: piece out of range or order");
        }
        found.push((piece, hash));
    }
    Ok(found)
}

/// Puts the parts of one signature together, in order.
#[derive(Debug, Default)]
pub struct SignatureBuilder {
    so_far: Signature,
    begun: bool,
    finished: bool,
}

impl SignatureBuilder {
    /// Nothing yet.
    pub fn new() -> SignatureBuilder {
        SignatureBuilder::default()
    }

    /// Takes the next BASIS payload of its file; whether it was the last one.  Useless after an error.
    pub fn part_untrusted(&mut self, payload: &[u8]) -> Result<bool, &'static str> {
        if peek_untrusted(payload)?.2 != Kind::Signature {
            return Err("basis: not a signature");
        }
        if self.finished {
            return Err("basis: more after the last part");
        }
        let part = Part::untrusted(payload)?;
        let whole = &mut self.so_far;
        if !std::mem::replace(&mut self.begun, true) {
            (whole.basis_size, whole.block_len) = (part.basis_size, part.block_len);
        }
        if (whole.basis_size, whole.block_len) != (part.basis_size, part.block_len) {
            return Err("basis: parts differ");
        }
        if part.first as usize != whole.weak.len() {
            return Err("basis: parts out of order");
        }
        let count = block_count(part.basis_size, part.block_len);
        let after = u64::from(part.first) + part.weak.len() as u64;
        if after > count || part.last != (after == count) {
            return Err("basis: block count");
        }
        whole.weak.extend(part.weak.iter().map(|sum| u32::from_le_bytes(*sum)));
        whole.strong.extend_from_slice(part.strong);
        self.finished = part.last;
        Ok(part.last)
    }

    /// What came so far.
    pub fn so_far(&self) -> &Signature {
        &self.so_far
    }

    /// Takes it out.
    pub fn into_signature(self) -> Signature {
        self.so_far
    }
}

struct Part<'a> {
    basis_size: u64,
    block_len: u32,
    first: u32,
    last: bool,
    weak: &'a [[u8; 4]],
    strong: &'a [Strong],
}

impl Part<'_> {
    fn untrusted(payload: &[u8]) -> Result<Part<'_>, &'static str> {
        let head = payload.first_chunk::<SIGNATURE_HEAD>().ok_or("basis: truncated")?;
        reserved_untrusted(payload, HEAD)?;
        reserved_untrusted(payload, 33)?;
        let word = |at: usize| u32_at(head, at).ok_or("basis: truncated");
        let (basis_size, block_len) = (u64::from(word(12)?) | u64::from(word(16)?) << 32, word(20)?);
        if !(BLOCK_MIN..=BLOCK_MAX).contains(&block_len) || !block_len.is_power_of_two() {
            return Err("basis: block length");
        }
        if block_count(basis_size, block_len) > BLOCKS_MAX {
            return Err("basis: too many blocks");
        }
        let last = match head[32] {
            0 => false,
            1 => true,
            _ => return Err("basis: last"),
        };
        let blocks = word(28)? as usize;
        let sums = &payload[SIGNATURE_HEAD..];
        if blocks as u64 > BLOCKS_MAX || sums.len() != blocks * 20 {
            return Err("basis: length");
        }
        if blocks == 0 && !last {
            return Err("basis: a part without blocks");
        }
        let (weak, strong) = sums.split_at(blocks * 4);
        Ok(Part {
            basis_size,
            block_len,
            first: word(24)?,
            last,
            weak: weak.as_chunks().0,
            strong: strong.as_chunks().0,
        })
    }
}

fn reserved_untrusted(payload: &[u8], at: usize) -> Result<(), &'static str> {
    match payload.get(at..at + 3) {
        Some([0, 0, 0]) => Ok(()),
        Some(_) => Err("basis: reserved bytes"),
        None => Err("basis: truncated"),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(whole: &Signature, blocks: usize) -> Vec<Vec<u8>> {
        let count = whole.weak.len().div_ceil(blocks).max(1);
        let part = |n: usize| {
            let range = n * blocks..whole.weak.len().min((n + 1) * blocks);
            let mut out = Vec::new();
            let values: Vec<Value> = range.clone().map(|block| padded(whole.strong[block])).collect();
            let weak = &whole.weak[range.clone()];
            encode_part(
                (7, 9),
                whole,
                range.start as u32,
                weak,
                &values,
                n + 1 == count,
                &mut out,
            );
            out
        };
        (0..count).map(part).collect()
    }

    fn padded(strong: Strong) -> Value {
        std::array::from_fn(|at| strong.get(at).copied().unwrap_or(0))
    }

    fn build(parts: &[Vec<u8>]) -> Result<Option<Signature>, &'static str> {
        let mut builder = SignatureBuilder::new();
        let last = parts.iter().try_fold(false, |_, part| builder.part_untrusted(part))?;
        Ok(last.then(|| builder.into_signature()))
    }

    #[test]
    fn parts_make_the_signature_again() {
        for size in [0, 1, 1023, 1024, 1025, 1024 * 9, 1024 * 9 + 1] {
            let basis: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            let whole = Signature::of(&basis, 1024);
            for blocks in [1, 2, 3, 100] {
                let parts = parts(&whole, blocks);
                assert_eq!(peek_untrusted(&parts[0]), Ok((7, 9, Kind::Signature)));
                assert_eq!(build(&parts), Ok(Some(whole.clone())));
            }
        }
    }

    #[test]
    fn broken_parts_are_refused() {
        let whole = Signature::of(&[5; 1024 * 4 + 3], 1024);
        let good = parts(&whole, 2);
        let broken = |part: usize, at: usize, bytes: &[u8]| {
            let mut parts = good.clone();
            parts[part][at..at + bytes.len()].copy_from_slice(bytes);
            build(&parts).err()
        };
        assert_eq!(broken(0, 8, &[6]), Some("basis: unknown kind"));
        assert_eq!(broken(0, 8, &[5]), Some("basis: length"));
        assert_eq!(broken(0, 8, &[4]), Some("basis: length"));
        assert_eq!(broken(0, 9, &[1]), Some("basis: reserved bytes"));
        assert_eq!(broken(1, 12, &[9]), Some("basis: parts differ"));
        assert_eq!(broken(0, 12, &[0xff; 8]), Some("basis: too many blocks"));
        for bad in [0u32, 512, 1025, 3072, 1 << 21, u32::MAX] {
            assert_eq!(broken(0, 20, &bad.to_le_bytes()), Some("basis: block length"));
        }
        assert_eq!(broken(1, 24, &[1]), Some("basis: parts out of order"));
        assert_eq!(broken(1, 28, &[1]), Some("basis: length"));
        assert_eq!(broken(1, 28, &[0xff; 4]), Some("basis: length"));
        assert_eq!(broken(0, 32, &[1]), Some("basis: block count"));
        assert_eq!(broken(2, 32, &[0]), Some("basis: block count"));
        assert_eq!(broken(0, 32, &[2]), Some("basis: last"));
        assert_eq!(
            build(&[good.clone(), good.clone()].concat()).err(),
            Some("basis: more after the last part")
        );
        for cut in 0..good[0].len() {
            assert!(build(&[good[0][..cut].to_vec()]).is_err());
        }
    }

    #[test]
    fn pieces_come_back_in_order_or_not_at_all() {
        let rows = [(1, [1; 32]), (4, [4; 32])];
        let mut payload = Vec::new();
        encode_pieces((7, 9), &rows, true, &mut payload);
        assert_eq!(peek_untrusted(&payload), Ok((7, 9, Kind::PiecesFirst)));
        payload.clear();
        encode_pieces((7, 9), &rows, false, &mut payload);
        assert_eq!(peek_untrusted(&payload), Ok((7, 9, Kind::Pieces)));
        assert_eq!(pieces_untrusted(&payload, 5), Ok(rows.to_vec()));
        assert!(pieces_untrusted(&payload, 4).is_err());
        assert!(SignatureBuilder::new().part_untrusted(&payload).is_err());
        for cut in 0..payload.len() {
            assert!(pieces_untrusted(&payload[..cut], 5).is_err());
        }
        payload.clear();
        encode_pieces((7, 9), &[rows[1], rows[0]], false, &mut payload);
        assert!(pieces_untrusted(&payload, 5).is_err());
    }
}
