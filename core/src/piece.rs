//! Pieces: a large file as 1 MiB BLAKE3 subtrees that are hashed apart and merged into the file's hash.

use blake3::hazmat::{self, HasherExt, Mode};

/// Bytes of a piece: a power of two, so that every piece but the last is a whole BLAKE3 subtree.
pub const PIECE: usize = 1 << 20;

/// How many pieces a file of `size` bytes has; an empty file has one, which is empty.
pub fn count(size: u64) -> u64 {
    size.div_ceil(PIECE as u64).max(1)
}

/// BLAKE3 of a whole file of at most one piece.
pub fn hash(data: &[u8]) -> [u8; 32] {
    *blake3::hash(data).as_bytes()
}

/// The chaining value of piece number `piece`, whose bytes are `data`, of a file of `size` bytes, `size > PIECE`.
///
/// Zeros, which no data hashes to, when `data` is not as long as that piece is.
pub fn chaining_value(data: &[u8], piece: u32, size: u64) -> [u8; 32] {
    let offset = u64::from(piece) * PIECE as u64;
    let expected = size.saturating_sub(offset).min(PIECE as u64);
    if size <= PIECE as u64 || data.is_empty() || data.len() as u64 != expected {
        return [0; 32];
    }
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset);
    hasher.update(data);
    hasher.finalize_non_root()
}

/// BLAKE3 of a file of `size` bytes, `size > PIECE`, from the chaining values of all its pieces in order.
///
/// Zeros, which no file hashes to, when there are not as many as it has pieces.
pub fn file_hash(cvs: &[[u8; 32]], size: u64) -> [u8; 32] {
    if size <= PIECE as u64 || cvs.len() as u64 != count(size) {
        return [0; 32];
    }
    let (left, right) = halves(cvs, size);
    *hazmat::merge_subtrees_root(&left, &right, Mode::Hash).as_bytes()
}

/// The chaining values of the two subtrees of a tree over `size` bytes, which is more than one piece.
fn halves(cvs: &[[u8; 32]], size: u64) -> ([u8; 32], [u8; 32]) {
    let left = hazmat::left_subtree_len(size);
    let (left_cvs, right_cvs) = cvs.split_at((left / PIECE as u64) as usize);
    (subtree(left_cvs, left), subtree(right_cvs, size - left))
}

fn subtree(cvs: &[[u8; 32]], size: u64) -> [u8; 32] {
    match cvs {
        [one] => *one,
        _ => {
            let (left, right) = halves(cvs, size);
            hazmat::merge_subtrees_non_root(&left, &right, Mode::Hash)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(data: &[u8]) -> [u8; 32] {
        let size = data.len() as u64;
        let cvs: Vec<_> = data
            .chunks(PIECE)
            .enumerate()
            .map(|(n, piece)| chaining_value(piece, n as u32, size))
            .collect();
        file_hash(&cvs, size)
    }

    #[test]
    fn pieces_merge_to_the_hash_of_the_whole() {
        let data: Vec<u8> = (0..12 * PIECE + 5).map(|n| (n * 31 + (n >> 11)) as u8).collect();
        for pieces in 1..12 {
            for extra in [1, 2, 63, 64, 1023, 1024, 1025, PIECE / 2, PIECE - 1, PIECE] {
                let whole = &data[..pieces * PIECE + extra];
                assert_eq!(merged(whole), hash(whole), "{} bytes", whole.len());
            }
        }
    }

    #[test]
    fn what_does_not_fit_hashes_to_zeros() {
        let data = vec![1; PIECE + 10];
        let size = data.len() as u64;
        assert_eq!(chaining_value(&data[..PIECE - 1], 0, size), [0; 32]);
        assert_eq!(chaining_value(&data[..10], 2, size), [0; 32]);
        assert_eq!(chaining_value(&data[..10], 0, 10), [0; 32]);
        assert_eq!(file_hash(&[[1; 32]], size), [0; 32]);
        assert_eq!(file_hash(&[], u64::MAX), [0; 32]);
        assert_eq!((count(0), count(PIECE as u64), count(size)), (1, 1, 2));
    }
}
