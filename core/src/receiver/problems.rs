//! PROBLEMS payloads. Layout: docs/protocol.md, PROBLEMS.

use super::problem;
use crate::list::u32_at;

/// Adds one path's trouble to a payload.
pub fn push(problems: &mut Vec<u8>, code: u8, errno: i32, path: &[u8]) {
    problems.extend_from_slice(&[code, 0, 0, 0]);
    problems.extend_from_slice(&errno.to_le_bytes());
    problems.extend_from_slice(&(path.len() as u32).to_le_bytes());
    problems.extend_from_slice(path);
}

/// Where whole problems of at most `most` bytes end; the first one is whole in any case.
pub fn cut(problems: &[u8], most: usize) -> usize {
    let mut at = 0;
    while at < problems.len() {
        let next = at + 12 + u32_at(problems, at + 8) as usize;
        if next > most && at > 0 {
            break;
        }
        at = next;
    }
    at
}

/// One path's trouble: path, code, errno.
pub type Problem = (Vec<u8>, u8, i32);

/// Takes PROBLEMS apart.
pub fn unpack_problems_untrusted(payload: &[u8]) -> Result<Vec<Problem>, &'static str> {
    let mut problems = Vec::new();
    let mut rest = payload;
    while !rest.is_empty() {
        if rest.len() < 12 || rest[0] == 0 || rest[0] > problem::MAX || rest[1..4] != [0; 3] {
            return Err("a problem of an unknown shape");
        }
        let len = u32_at(rest, 8) as usize;
        let path = rest[12..].get(..len).ok_or("a problem that is cut short")?;
        if path.contains(&0) && rest[0] != problem::TWIN {
            return Err("a path with a NUL byte");
        }
        problems.push((path.to_vec(), rest[0], u32_at(rest, 4).cast_signed()));
        rest = &rest[12 + len..];
    }
    Ok(problems)
}
