//! Packed payloads: a DATA or LIST payload as one zstd frame behind a header. Layout: docs/protocol.md, "Packed payloads".
//!
//! Payloads are packed one by one, so that any connection may carry them in any order, and none keeps a window alive.

use std::cell::RefCell;

use zstd::zstd_safe::{self, CCtx, DCtx};

use crate::buffer;
use crate::list::{u16_at, u32_at};

/// Bytes before the frame.
const HEADER: usize = 12;
/// What a payload may unpack to, the same as what it may be unpacked: `PAYLOAD_MAX` of proto/limits.py.
const RAW_MAX: usize = 2 << 20;
/// Smaller payloads go as they are: a frame would not shorten the packets that they leave in.
const RAW_MIN: usize = 512;
/// A sample is so many windows of so many bytes, spread over the payload.
const WINDOWS: usize = 8;
const WINDOW: usize = 4 << 10;

thread_local! {
    /// A context costs more to make than a small payload does to pack; these end with their engine's thread.
    static PACKER: RefCell<Option<CCtx<'static>>> = RefCell::new(CCtx::try_create());
    static UNPACKER: RefCell<Option<DCtx<'static>>> = RefCell::new(DCtx::try_create());
}

/// What a packed payload says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// LIST: the chunk's flags; DATA: 0.
    pub flags: u16,
    /// LIST: the chunk's number; DATA: the highest chunk that its records refer to.
    pub chunk: u32,
    raw_len: usize,
}

/// `raw` packed at a zstd level; None when that saves less than a sixteenth, or is not to be had.
pub fn pack(raw: &[u8], flags: u16, chunk: u32, level: i32) -> Option<Vec<u8>> {
    if !(RAW_MIN..=RAW_MAX).contains(&raw.len()) {
        return None;
    }
    let most = raw.len() - raw.len() / 16 - HEADER;
    let mut frame = buffer::take(most);
    let fits = compress(raw, &mut frame, level).is_some_and(|len| len <= most);
    let packed = fits.then(|| {
        let mut out = buffer::take(HEADER + frame.len());
        out.extend_from_slice(&0u16.to_le_bytes());
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&(raw.len() as u32).to_le_bytes());
        out.extend_from_slice(&chunk.to_le_bytes());
        out.extend_from_slice(&frame);
        out
    });
    buffer::give(frame);
    packed
}

/// Whether packing `raw` looks worth the work: a sample of it shrinks by a tenth. True for what is no longer than one.
///
/// At its lower levels zstd steps over what does not shrink at several GB/s, so one answer for a batch of small files
/// does; files of a batch are not sorted by it.
pub fn pays(raw: &[u8]) -> bool {
    if raw.len() <= WINDOWS * WINDOW {
        return true;
    }
    let stride = (raw.len() - WINDOW) / (WINDOWS - 1);
    let mut sample = Vec::with_capacity(WINDOWS * WINDOW);
    for n in 0..WINDOWS {
        sample.extend_from_slice(&raw[n * stride..][..WINDOW]);
    }
    let mut frame = Vec::with_capacity(sample.len());
    compress(&sample, &mut frame, 1).is_some_and(|len| len * 10 <= sample.len() * 9)
}

/// The length of the frame in `out`, None when it does not fit what `out` has room for.
fn compress(raw: &[u8], out: &mut Vec<u8>, level: i32) -> Option<usize> {
    PACKER.with_borrow_mut(|packer| packer.as_mut()?.compress(out, raw, level).ok())
}

/// The header of a packed payload; None when it is not packed.
pub fn header_untrusted(payload: &[u8]) -> Result<Option<Header>, &'static str> {
    if payload.len() < 2 || u16_at(payload, 0) != 0 {
        return Ok(None);
    }
    if payload.len() <= HEADER {
        return Err("a packed payload that is cut short");
    }
    let raw_len = u32_at(payload, 4) as usize;
    if !(1..=RAW_MAX).contains(&raw_len) {
        return Err("a packed payload that unpacks to nothing, or to more than a payload holds");
    }
    Ok(Some(Header {
        flags: u16_at(payload, 2),
        chunk: u32_at(payload, 8),
        raw_len,
    }))
}

/// What a payload with this header holds.
///
/// It is exactly as long as the header says, which bounds the memory: zstd writes into that alone, and keeps no window.
pub fn unpack_untrusted(payload: &[u8], header: &Header) -> Result<Vec<u8>, &'static str> {
    let frame = payload.get(HEADER..).unwrap_or_default();
    let alone = zstd_safe::find_frame_compressed_size(frame) == Ok(frame.len());
    let said = zstd_safe::get_frame_content_size(frame).ok().flatten();
    if !alone || said != Some(header.raw_len as u64) {
        return Err("a packed payload that is not one frame of the length that it says");
    }
    let mut raw = buffer::take(header.raw_len);
    let len = UNPACKER.with_borrow_mut(|unpacker| unpacker.as_mut()?.decompress(&mut raw, frame).ok());
    if len != Some(header.raw_len) {
        return Err("a packed payload that does not unpack");
    }
    Ok(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(len: usize) -> Vec<u8> {
        (0..len)
            .map(|n| b"the quick brown fox "[n % 20] ^ (n >> 12) as u8)
            .collect()
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut out);
        out
    }

    fn unpacked(payload: &[u8]) -> Result<Vec<u8>, &'static str> {
        let header = header_untrusted(payload)?.ok_or("not packed")?;
        unpack_untrusted(payload, &header)
    }

    fn packed(raw_len: usize, frame: &[u8]) -> Vec<u8> {
        let mut out = vec![0; HEADER];
        out[4..8].copy_from_slice(&(raw_len as u32).to_le_bytes());
        out.extend_from_slice(frame);
        out
    }

    fn frame(raw: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(zstd_safe::compress_bound(raw.len()));
        compress(raw, &mut out, 1).expect("room");
        out
    }

    #[test]
    fn what_is_packed_comes_back_at_every_level() {
        for level in [1, 3, 5, 6] {
            for len in [RAW_MIN, 4096, 100_000, RAW_MAX] {
                let raw = text(len);
                let payload = pack(&raw, 7, 9, level).expect("it shrinks");
                let header = header_untrusted(&payload).expect("valid").expect("packed");
                assert_eq!((header.flags, header.chunk), (7, 9));
                assert!(payload.len() < raw.len() / 2);
                assert!(unpacked(&payload).expect("valid") == raw);
            }
        }
    }

    #[test]
    fn what_does_not_shrink_or_is_no_payload_is_left_as_it_is() {
        assert_eq!(pack(&noise(100_000), 0, 0, 1), None);
        assert_eq!(pack(&text(RAW_MIN - 1), 0, 0, 1), None);
        assert_eq!(pack(&text(RAW_MAX + 1), 0, 0, 1), None);
        assert!(pays(&text(1 << 20)) && !pays(&noise(1 << 20)));
        let mixed = [noise(500_000), text(500_000)].concat();
        assert!(pays(&mixed) && pack(&mixed, 0, 0, 1).is_some_and(|p| p.len() < 520_000));
    }

    #[test]
    fn payloads_that_are_not_packed_are_told_apart() {
        for payload in [&b""[..], b"\0", b"\x01\0", &[1; 100], &[4, 0, 0, 0]] {
            assert_eq!(header_untrusted(payload), Ok(None));
        }
    }

    #[test]
    fn hostile_payloads_are_refused_before_they_take_memory() {
        let raw = text(10_000);
        let good = frame(&raw);
        assert!(unpacked(&packed(raw.len(), &good)).expect("valid") == raw);
        for len in 2..HEADER + good.len() {
            assert!(unpacked(&packed(raw.len(), &good)[..len]).is_err());
        }
        for len in [
            0,
            1,
            raw.len() - 1,
            raw.len() + 1,
            RAW_MAX,
            RAW_MAX + 1,
            u32::MAX as usize,
        ] {
            assert!(unpacked(&packed(len, &good)).is_err(), "{len}");
        }
        let bomb = frame(&vec![0; 64 << 20]);
        for len in [1, RAW_MAX, 64 << 20] {
            assert!(unpacked(&packed(len, &bomb)).is_err());
        }
        let twice = [&good[..], &good].concat();
        assert!(unpacked(&packed(2 * raw.len(), &twice)).is_err());
        let skippable = b"\x50\x2a\x4d\x18\x04\0\0\0abcd";
        for odd in [
            [&good[..], skippable].concat(),
            [skippable, &good[..]].concat(),
            skippable.to_vec(),
        ] {
            assert!(unpacked(&packed(raw.len(), &odd)).is_err());
        }
    }

    #[test]
    fn no_damage_is_worse_than_a_refusal_or_other_bytes() {
        let raw = text(3000);
        let good = packed(raw.len(), &frame(&raw));
        for at in HEADER..good.len() {
            for bit in 0..8 {
                let mut damaged = good.clone();
                damaged[at] ^= 1 << bit;
                if let Ok(other) = unpacked(&damaged) {
                    assert_eq!(other.len(), raw.len());
                }
            }
        }
    }
}
