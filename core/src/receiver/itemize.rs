//! Itemized changes in rsync's `%i %n%L` format (rsync.1, --itemize-changes).

use crate::list::{DIRECTORY, Entry, OTHER, SYMLINK};

/// What differs between an entry and what is at the destination.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Differs {
    /// Content by checksum, or a symlink's target.
    pub content: bool,
    pub size: bool,
    pub time: bool,
    pub mode: bool,
    pub owner: bool,
    pub group: bool,
}

impl Differs {
    /// Whether anything does.
    pub fn any(self) -> bool {
        self != Self::default()
    }
}

/// A line for `entry`. `update` is `<` or `>` (transferred), `c` (made here) or `.` (attributes only).
pub fn line(update: u8, path: &[u8], entry: &Entry<'_>, new: bool, differs: Differs) -> Vec<u8> {
    let kind = match entry.kind {
        DIRECTORY => b'd',
        SYMLINK => b'L',
        OTHER => b'S',
        _ => b'f',
    };
    let mut out = vec![update, kind];
    if new {
        out.extend_from_slice(b"+++++++++");
    } else {
        let flag = |set, letter| if set { letter } else { b'.' };
        out.extend_from_slice(&[
            flag(differs.content, b'c'),
            flag(differs.size, b's'),
            flag(differs.time, b't'),
            flag(differs.mode, b'p'),
            flag(differs.owner, b'o'),
            flag(differs.group, b'g'),
            b'.',
            b'.',
            b'.',
        ]);
    }
    out.push(b' ');
    out.extend_from_slice(if path.is_empty() { b"." } else { path });
    if entry.kind == DIRECTORY {
        out.push(b'/');
    } else if entry.kind == SYMLINK {
        out.extend_from_slice(b" -> ");
        out.extend_from_slice(entry.target);
    }
    out
}

/// A line for an entry that was linked to what is named `leader`.
pub fn linked(path: &[u8], entry: &Entry<'_>, new: bool, differs: Differs, leader: &[u8]) -> Vec<u8> {
    let entry = Entry {
        target: leader,
        ..*entry
    };
    let mut out = line(b'h', path, &entry, new, differs);
    if !new && !differs.any() {
        out[2..11].fill(b' ');
    }
    if entry.kind == SYMLINK {
        out.truncate(out.len() - leader.len() - b" -> ".len());
    }
    out.extend_from_slice(b" => ");
    out.extend_from_slice(leader);
    out
}

/// A line for what is deleted.
pub fn deleting(path: &[u8], directory: bool) -> Vec<u8> {
    let mut out = b"*deleting   ".to_vec();
    out.extend_from_slice(path);
    if directory {
        out.push(b'/');
    }
    out
}
