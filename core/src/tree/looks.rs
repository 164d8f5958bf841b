//! A list of paths to look at: what changed, what a peer asks for, what a user names.

use crate::list;

/// Look at the path and at everything below it.
pub const DEEP: u8 = 1;

/// flags, reserved, length of the path.
const HEAD: usize = 6;

/// One path to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Look<'a> {
    /// Relative to the root; empty is the root itself.
    pub path: &'a [u8],
    /// With everything below it.
    pub deep: bool,
}

/// Appends one look.
pub fn push(out: &mut Vec<u8>, path: &[u8], deep: bool) {
    out.extend_from_slice(&[if deep { DEEP } else { 0 }, 0]);
    out.extend_from_slice(&(path.len() as u32).to_le_bytes());
    out.extend_from_slice(path);
}

/// Every look of a peer's payload; each path is relative, plain, and not too long.
pub fn each_untrusted(payload: &[u8]) -> Result<Vec<Look<'_>>, &'static str> {
    let mut looks = Vec::new();
    let mut rest = payload;
    while !rest.is_empty() {
        if rest.len() < HEAD {
            return Err("a look is cut short");
        }
        let (head, tail) = rest.split_at(HEAD);
        let len = u32::from_le_bytes(list::array(&head[2..])) as usize;
        if head[0] & !DEEP != 0 || head[1] != 0 {
            return Err("a look with unknown flags");
        }
        if len > list::PATH_MAX || len > tail.len() {
            return Err("a look whose path is too long");
        }
        let (path, tail) = tail.split_at(len);
        if !path.is_empty() && !path.split(|&b| b == b'/').all(list::is_component) {
            return Err("a look at a path that is not relative and plain");
        }
        looks.push(Look {
            path,
            deep: head[0] & DEEP != 0,
        });
        rest = tail;
    }
    Ok(looks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(path: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        push(&mut out, path, false);
        out
    }

    #[test]
    fn what_is_pushed_is_read() {
        let mut out = Vec::new();
        push(&mut out, b"", true);
        push(&mut out, b"a/b\xff", false);
        let looks = each_untrusted(&out).expect("plain looks");
        let seen: Vec<_> = looks.iter().map(|l| (l.path, l.deep)).collect();
        assert_eq!(seen, [(&b""[..], true), (b"a/b\xff", false)]);
    }

    #[test]
    fn what_is_not_plain_is_refused() {
        for path in [&b"/a"[..], b"a/", b"a//b", b"..", b"a/../b", b".", b"a\0", &[b'x'; 256]] {
            assert!(each_untrusted(&payload(path)).is_err(), "{path:?}");
        }
        let long = [&b"x"[..]; list::PATH_MAX / 2 + 2].join(&b'/');
        assert!(each_untrusted(&payload(&long)).is_err());
        let whole = payload(b"a/b");
        for cut in 1..whole.len() {
            assert!(each_untrusted(&whole[..cut]).is_err(), "cut at {cut}");
        }
        for (at, byte) in [(0, 2), (1, 1)] {
            let mut odd = whole.clone();
            odd[at] = byte;
            assert!(each_untrusted(&odd).is_err());
        }
    }
}
