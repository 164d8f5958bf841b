//! Holes: stretches of a file that nothing was written to. They read as zeros and take no space.
//!
//! What a file system says of them by SEEK_DATA and SEEK_HOLE is taken as it is: one without holes calls everything data.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::piece::PIECE;
use crate::rw::{read_at, write_at};

/// A shorter hole is sent as the zeros that it reads as: the smallest block of any file system.
pub const HOLE_MIN: usize = 512;
/// In a smaller file it does not pay to look for holes.
const FILE_MIN: u64 = 32 << 10;

/// Whether a file of `size` bytes takes less space than these need, so that looking for its holes pays.
pub fn may_have(file: &OwnedFd, size: u64) -> bool {
    size >= FILE_MIN && allocated(file).is_ok_and(|bytes| bytes < size)
}

/// Bytes of storage that a file takes.
pub fn allocated(file: &OwnedFd) -> io::Result<u64> {
    #[allow(clippy::unnecessary_cast, reason = "the field's width differs between platforms")]
    Ok(512 * rustix::fs::fstat(file)?.st_blocks as u64)
}

/// Where the first data of `range` begin; its end when it is one hole.
pub fn next_data(file: impl AsFd, range: Range<u64>) -> u64 {
    match rustix::fs::seek(file, SeekFrom::Data(range.start)) {
        Ok(at) => at.clamp(range.start, range.end),
        Err(Errno::NXIO) => range.end,
        Err(_) => range.start,
    }
}

/// The data of `range`, in order.
pub fn data(file: impl AsFd, range: Range<u64>) -> Vec<Range<u64>> {
    let mut found = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let begin = next_data(&file, at..range.end);
        if begin == range.end {
            break;
        }
        let end = match rustix::fs::seek(&file, SeekFrom::Hole(begin)) {
            Ok(end) if end > begin => end.min(range.end),
            _ => range.end,
        };
        found.push(begin..end);
        at = end;
    }
    found
}

/// Fills `into` from `at`; zeros where the file has holes, which are not read. The holes, as places in `into`.
pub fn read_around(file: &OwnedFd, at: u64, into: &mut [u8]) -> io::Result<Vec<Range<usize>>> {
    let mut holes = Vec::new();
    let mut done = 0;
    for extent in data(file, at..at + into.len() as u64) {
        let (begin, end) = ((extent.start - at) as usize, (extent.end - at) as usize);
        hole(&mut holes, &mut into[..begin], done);
        read_at(file, extent.start, &mut into[begin..end])?;
        done = end;
    }
    hole(&mut holes, into, done);
    Ok(holes)
}

/// Those parts of `holes` that lie below `len` and are long enough.
pub fn within(mut holes: Vec<Range<usize>>, len: usize) -> Vec<Range<usize>> {
    holes.retain_mut(|hole| {
        hole.end = hole.end.min(len);
        hole.start + HOLE_MIN <= hole.end
    });
    holes
}

fn hole(holes: &mut Vec<Range<usize>>, into: &mut [u8], from: usize) {
    into[from..].fill(0);
    if into.len() - from >= HOLE_MIN {
        holes.push(from..into.len());
    }
}

/// Writes `content` at `at` but for its holes, which are in order.
pub fn write_around(file: &OwnedFd, content: &[u8], at: u64, holes: &[Range<usize>]) -> io::Result<()> {
    let mut done = 0;
    for hole in holes {
        write_at(file, &content[done..hole.start], at + done as u64)?;
        done = hole.end;
    }
    write_at(file, &content[done..], at + done as u64)
}

/// Has `range` read as zeros, of a file that may hold something there; without taking space, where that is possible.
pub fn clear(file: &OwnedFd, range: Range<u64>) -> io::Result<()> {
    for extent in data(file, range) {
        if punch(file, &extent) {
            continue;
        }
        let zeros = vec![0; PIECE.min((extent.end - extent.start) as usize)];
        let mut at = extent.start;
        while at < extent.end {
            let len = zeros.len().min((extent.end - at) as usize);
            write_at(file, &zeros[..len], at)?;
            at += len as u64;
        }
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn punch(file: &OwnedFd, extent: &Range<u64>) -> bool {
    use rustix::fs::FallocateFlags;
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(file, flags, extent.start, extent.end - extent.start).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn punch(_file: &OwnedFd, _extent: &Range<u64>) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::beneath;

    const BLOCK: usize = 64 << 10;

    /// A file that is gone when it is closed.
    fn scratch(name: &str) -> OwnedFd {
        let path = std::env::temp_dir().join(format!("syncctl-holes-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let dir = std::fs::File::open(std::env::temp_dir()).expect("temp");
        let name = path.file_name().expect("name").as_encoded_bytes();
        let file = beneath::create_readable_at(&dir, name).expect("create");
        beneath::unlink_at(&dir, name).expect("unlink");
        file
    }

    #[test]
    fn what_is_written_around_holes_is_read_around_them() {
        let file = scratch("around");
        let mut content = vec![0; 8 * BLOCK];
        for at in [0, 3, 4] {
            content[at * BLOCK..][..BLOCK].fill(1 + at as u8);
        }
        let holes = [BLOCK..3 * BLOCK, 5 * BLOCK..8 * BLOCK];
        write_around(&file, &content, 0, &holes).expect("write");
        rustix::fs::ftruncate(&file, content.len() as u64).expect("truncate");
        let mut into = vec![9; content.len()];
        let found = read_around(&file, 0, &mut into).expect("read");
        assert_eq!(into, content);
        // Where the file system keeps holes, these are they; elsewhere there are none.
        if may_have(&file, content.len() as u64) {
            assert_eq!(found, holes);
            assert_eq!(next_data(&file, BLOCK as u64..content.len() as u64), 3 * BLOCK as u64);
            assert_eq!(next_data(&file, BLOCK as u64..2 * BLOCK as u64), 2 * BLOCK as u64);
            assert_eq!(next_data(&file, 6 * BLOCK as u64..u64::MAX >> 1), u64::MAX >> 1);
        } else {
            assert!(found.is_empty());
        }
    }

    #[test]
    fn what_is_cleared_reads_as_zeros_and_the_rest_as_before() {
        let file = scratch("clear");
        write_at(&file, &[5; 4 * BLOCK], 0).expect("write");
        clear(&file, 1000..3 * BLOCK as u64 + 7).expect("clear");
        let mut into = vec![9; 4 * BLOCK];
        read_at(&file, 0, &mut into).expect("read");
        assert!(into[..1000].iter().chain(&into[3 * BLOCK + 7..]).all(|&b| b == 5));
        assert!(into[1000..3 * BLOCK + 7].iter().all(|&b| b == 0));
    }
}
