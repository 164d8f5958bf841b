//! Names of our own files beside the user's: temporary files, and entries moved aside while their type changes.
//!
//! ```text
//! .NAME.TTTTTTTTRRRRRRRR.sync~      a temporary file, or a partial
//! .NAME.TTTTTTTTRRRRRRRR.aside~     what stood at NAME before its type changed
//! .NAME.TTTTTTTTRRRRRRRR.new~       a directory that is filled before it gets its name
//! ```
//!
//! T is the agent's tag, R is random. NAME is cut so that the whole stays within 255 bytes. No agent lists such names, nor
//! `.syncctl-trash`, which holds what was deleted.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::beneath::stat_at;
use crate::list::{COMPONENT_MAX, DIRECTORY};

const TEMP: &[u8] = b".sync~";
const ASIDE: &[u8] = b".aside~";
const FRESH: &[u8] = b".new~";
const HEX: usize = 16;

/// What one of our names stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Content on its way, or a partial.
    Temp,
    /// An entry that waits for its removal, or for being put back.
    Aside,
    /// A new directory that is not complete.
    Fresh,
}

impl Kind {
    fn suffix(self) -> &'static [u8] {
        match self {
            Self::Temp => TEMP,
            Self::Aside => ASIDE,
            Self::Fresh => FRESH,
        }
    }
}

/// An odd step visits every number once before any comes again.
const STEP: u32 = 0x9e37_79b9;
/// What undoes a multiplication by it. Newton's iteration doubles the bits that are right, beginning with three.
const UNSTEP: u32 = {
    let mut inverse = STEP;
    let mut bits = 3;
    while bits < 32 {
        inverse = inverse.wrapping_mul(2u32.wrapping_sub(STEP.wrapping_mul(inverse)));
        bits *= 2;
    }
    inverse
};

/// Makes names with one agent's tag.
pub struct Namer {
    tag: [u8; 8],
    first: u32,
    next: AtomicU32,
}

impl Namer {
    /// `tag` is 8 lowercase hex digits.
    pub fn new(tag: &str) -> Result<Self, &'static str> {
        let tag: [u8; 8] = tag.as_bytes().try_into().map_err(|_| "a tag has 8 digits")?;
        if !tag.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err("a tag is lowercase hex");
        }
        // Names only have to differ from those of an earlier run that was killed; O_EXCL decides the rest.
        let mut seed = [0; 4];
        if rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty()).is_err() {
            seed = std::process::id().to_le_bytes();
        }
        let first = u32::from_le_bytes(seed);
        let next = AtomicU32::new(first);
        Ok(Self { tag, first, next })
    }

    /// A fresh name for `name`.
    pub fn name(&self, kind: Kind, name: &[u8]) -> Vec<u8> {
        let random = self.next.fetch_add(STEP, Ordering::Relaxed);
        let mut out = Vec::with_capacity(COMPONENT_MAX);
        out.push(b'.');
        out.extend_from_slice(stem(name));
        out.push(b'.');
        out.extend_from_slice(&self.tag);
        out.extend_from_slice(format!("{random:08x}").as_bytes());
        out.extend_from_slice(kind.suffix());
        out
    }

    /// Whether `name` is one of this agent's; (kind, stem).
    pub fn own<'a>(&self, name: &'a [u8]) -> Option<(Kind, &'a [u8])> {
        parse(name)
            .filter(|(.., tag)| *tag == self.tag)
            .map(|(kind, stem, _)| (kind, stem))
    }

    /// The same of a name in `dir`. Of a swap that was cut short a directory may be left under a temporary file's name:
    /// that was moved aside.
    pub fn own_in<'a>(&self, dir: impl AsFd, name: &'a [u8]) -> Option<(Kind, &'a [u8])> {
        let (kind, stem) = self.own(name)?;
        let directory = kind == Kind::Temp && stat_at(dir, name).is_ok_and(|m| m.kind == DIRECTORY);
        Some((if directory { Kind::Aside } else { kind }, stem))
    }

    /// Whether `name`, one of this agent's, was made by this very namer: what it stands for is in use.
    pub fn made(&self, name: &[u8]) -> bool {
        let random = parse(name).and_then(|(kind, ..)| {
            let end = name.len() - kind.suffix().len();
            let digits = std::str::from_utf8(&name[end - 8..end]).ok()?;
            u32::from_str_radix(digits, 16).ok()
        });
        let steps = |to: u32| to.wrapping_sub(self.first).wrapping_mul(UNSTEP);
        random.is_some_and(|random| steps(random) < steps(self.next.load(Ordering::Relaxed)))
    }
}

/// The part of `name` that its temporary names keep.
pub fn stem(name: &[u8]) -> &[u8] {
    &name[..name.len().min(COMPONENT_MAX - HEX - ASIDE.len() - 2)]
}

/// Where a destination keeps what syncs deleted or overwrote: see `crate::trash`.
pub const TRASH: &[u8] = b".syncctl-trash";

/// Whether `name` is an agent's, and none of the user's: it is neither listed nor deleted, in whatever directory it is.
pub fn is_private(name: &[u8]) -> bool {
    name.first() == Some(&b'.') && (name == TRASH || parse(name).is_some())
}

/// Whether `name` is any agent's; (kind, stem, tag).
pub fn parse(name: &[u8]) -> Option<(Kind, &[u8], &[u8])> {
    if name.first() != Some(&b'.') || name.last() != Some(&b'~') {
        return None;
    }
    let (kind, rest) = [(Kind::Temp, TEMP), (Kind::Aside, ASIDE), (Kind::Fresh, FRESH)]
        .into_iter()
        .find_map(|(kind, suffix)| Some((kind, name.strip_suffix(suffix)?)))?;
    let (front, digits) = rest.split_at_checked(rest.len().checked_sub(HEX)?)?;
    let stem = front.strip_prefix(b".")?.strip_suffix(b".")?;
    let hex = digits.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    (hex && !stem.is_empty()).then_some((kind, stem, &digits[..8]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_names_are_recognised_and_others_are_not() {
        let namer = Namer::new("0123abcd").expect("tag");
        let other = Namer::new("ffffffff").expect("tag");
        for name in [&b"a"[..], b".x", b"caf\xe9", &[b'n'; 255]] {
            for kind in [Kind::Temp, Kind::Aside, Kind::Fresh] {
                let temp = namer.name(kind, name);
                assert!(temp.len() <= COMPONENT_MAX);
                assert_eq!(namer.own(&temp), Some((kind, stem(name))));
                assert_eq!(other.own(&temp), None);
                assert!(parse(&temp).is_some());
                assert_ne!(temp, namer.name(kind, name));
                assert!(namer.made(&temp) && !other.made(&temp));
            }
        }
        for name in [
            &b"a.sync~"[..],
            b".a.0123.sync~",
            b"..0123abcd01234567.sync~",
            b".a.0123abcd0123456G.sync~",
            b"~",
        ] {
            assert_eq!(parse(name), None, "{name:?}");
        }
        assert!(Namer::new("0123ABCD").is_err() && Namer::new("0").is_err());
    }
}
