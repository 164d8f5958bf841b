//! Destinations that take different names for one, by their case or by their normal form.
//!
//! There a listed name that its directory does not show may be found all the same: what stands there is spelled otherwise.
//! Is that spelling listed, too, the two are twins, of which one can be there; the other is a problem. Is it not, it
//! is what the name stands for: it gets the listed case, and is nothing extra.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

use super::compare::Generator;
use super::conflict::{OnConflict, tell_gone};
use super::dirs::Dirs;
use super::entries::At;
use super::groups::Inode;
use super::outbox::add;
use super::{Shared, problem};
use crate::beneath::{self, Meta, join, split};
use crate::list::{Chunk, DIRECTORY, Entry, GONE, Group};
use crate::temp::{self, Kind};

/// File systems that keep names apart by their bytes (statfs(2)): ext4, XFS, btrfs, tmpfs, overlayfs, F2FS, ZFS, bcachefs.
/// Those of them that can be told to ignore case show that by finding a name in the other case.
#[cfg(target_os = "linux")]
const EXACT: [u32; 8] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0x0102_1994,
    0x794c_7630,
    0xf2f5_2010,
    0x2fc1_2fc1,
    0xca45_1a4e,
];

/// What a directory and its listing call the same things, looked up when one group needs it.
pub struct Aliases<'a> {
    chunk: &'a Chunk,
    range: Range<u32>,
    names: Option<Names>,
    /// Entries that stand under other names, which they keep.
    pub kept: Vec<(u32, Box<[u8]>)>,
}

struct Names {
    /// The group's, and whether the source has them.
    listed: HashMap<Box<[u8]>, bool>,
    /// The directory's.
    here: ByInode,
}

/// Names of one directory.
type ByInode = HashMap<Inode, Vec<Box<[u8]>>>;

impl<'a> Aliases<'a> {
    /// For the entries of `group` from number `from` on.
    pub fn new(chunk: &'a Chunk, from: u32, group: &Group) -> Self {
        Self {
            chunk,
            range: from..group.start + group.entries,
            names: None,
            kept: Vec::new(),
        }
    }

    /// Those of the group's directory `fd`, in which something is found as `id`.
    fn names(&mut self, fd: &OwnedFd, id: Inode) -> io::Result<&mut Names> {
        let names = match self.names.take() {
            Some(names) if names.has(fd, id) => names,
            Some(names) => Names {
                here: names_of(fd)?,
                ..names
            },
            None => {
                let entries = self.range.clone().map(|i| self.chunk.entry(i));
                Names {
                    listed: entries.map(|e| (e.name.into(), e.kind != GONE)).collect(),
                    here: names_of(fd)?,
                }
            }
        };
        Ok(self.names.insert(names))
    }
}

impl Names {
    /// Whether it is still true of `id`: what this session has made since is not among them.
    fn has(&self, fd: &OwnedFd, id: Inode) -> bool {
        let same = |name: &[u8]| beneath::stat_at(fd, name).is_ok_and(|meta| meta.id == id);
        let names = self.here.get(&id);
        names.is_some_and(|names| names.iter().all(|name| same(name)))
    }
}

fn each_name(fd: &OwnedFd, each: impl FnMut(&[u8])) -> io::Result<()> {
    // A handle of its own: reading a directory moves the handle's position.
    beneath::each_name(beneath::open_dir_at(fd, b".")?, each)
}

/// Whether the directory has the name in just this spelling.
fn shows(fd: &OwnedFd, name: &[u8]) -> bool {
    let mut shown = false;
    let read = each_name(fd, |other| shown |= other == name);
    shown && read.is_ok()
}

fn names_of(fd: &OwnedFd) -> io::Result<ByInode> {
    let mut all: Vec<Box<[u8]>> = Vec::new();
    each_name(fd, |name| all.push(name.into()))?;
    let mut here = ByInode::new();
    for name in all {
        if let Ok(meta) = beneath::stat_at(fd, &name) {
            here.entry(meta.id).or_default().push(name);
        }
    }
    Ok(here)
}

/// Of the names of one file the one that `name` is found by. None: `name` itself is among them.
fn spelled<'a>(same: &'a [Box<[u8]>], name: &[u8]) -> Option<&'a [u8]> {
    if same.iter().any(|other| **other == *name) {
        return None;
    }
    let alike = |other: &[u8]| other.iter().zip(name).take_while(|(a, b)| a == b).count();
    same.iter()
        .map(|other| &**other)
        .max_by_key(|other| (by_case(other, name), alike(other)))
}

/// Whether two names differ by case alone.
fn by_case(a: &[u8], b: &[u8]) -> bool {
    match (str::from_utf8(a), str::from_utf8(b)) {
        (Ok(a), Ok(b)) => a.to_lowercase() == b.to_lowercase() || a.to_uppercase() == b.to_uppercase(),
        _ => a.eq_ignore_ascii_case(b),
    }
}

/// Whether `name`, which was found as `meta`, may be shown by its directory in another form.
fn may_fold(fd: &OwnedFd, name: &[u8], meta: &Meta) -> bool {
    let swap = |b: &u8| if b.is_ascii_alphabetic() { b ^ 0x20 } else { *b };
    let swapped: Vec<u8> = name.iter().map(swap).collect();
    let found = || beneath::stat_at(fd, &swapped).is_ok_and(|other| other.id == meta.id);
    swapped != name && found() || !name.is_ascii() && !is_exact(fd)
}

fn is_exact(dir: impl AsFd) -> bool {
    #[cfg(target_os = "linux")]
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "magic numbers have 32 bits"
    )]
    return rustix::fs::fstatfs(dir).is_ok_and(|fs| EXACT.contains(&(fs.f_type as u32)));
    #[cfg(not(target_os = "linux"))]
    return rustix::fs::fstatfs(dir).is_err();
}

/// Whether a name holds what composed characters are decomposed to: U+0300 to U+036F, and Hangul's U+1100 to U+11FF.
fn is_decomposed(name: &[u8]) -> bool {
    let decomposed = |c: char| matches!(c, '\u{300}'..='\u{36f}' | '\u{1100}'..='\u{11ff}');
    str::from_utf8(name).is_ok_and(|name| name.chars().any(decomposed))
}

impl Shared {
    /// The name at `path` cannot be there beside `other`, which the file system takes for the same.
    fn twin(&self, path: &[u8], other: &[u8]) {
        let other = join(split(path).0, other);
        self.out
            .problem(&self.counters, problem::TWIN, 0, &[path, b"\0", &other].concat());
    }

    /// Gives what is at `old` the name `new`, which differs by case.
    fn recase(&self, fd: &OwnedFd, old: &[u8], new: &[u8]) -> io::Result<()> {
        self.in_dir(fd, || beneath::rename_at(fd, old, new))?;
        if shows(fd, new) {
            return Ok(());
        }
        // To Linux these are one name, and nothing is to be done. Killed here, the next session puts it back.
        let aside = self.namer.name(Kind::Aside, new);
        beneath::rename_new_at(fd, old, &aside)?;
        beneath::rename_new_at(fd, &aside, new).inspect_err(|_| {
            let _ = beneath::rename_new_at(fd, &aside, old);
        })
    }

    /// Making `path`, `name` in `fd`, found that it is there. Whether it is so by another spelling, which was told.
    pub fn is_twin(&self, fd: &OwnedFd, name: &[u8], path: &[u8]) -> bool {
        let Ok(meta) = beneath::stat_at(fd, name) else {
            return false;
        };
        let (mut shown, mut case) = (false, None);
        let read = each_name(fd, |other| {
            shown |= other == name;
            if by_case(other, name) {
                case = Some(other.into());
            }
        });
        let form = || {
            names_of(fd)
                .ok()?
                .get(&meta.id)
                .and_then(|same| spelled(same, name))
                .map(Box::from)
        };
        let other: Option<Box<[u8]>> = match read {
            Ok(()) if !shown => case.or_else(form),
            _ => None,
        };
        if let Some(other) = &other {
            self.twin(path, other);
            if let Some(tree) = self.told() {
                tree.distrust(path, true);
            }
        }
        other.is_some()
    }
}

impl Generator<'_> {
    /// `entry` was found, and its directory was not seen to have its name: is that of something else? False: it is left,
    /// which was told.
    pub(super) fn alias(
        &self,
        dirs: &mut Dirs,
        i: u32,
        entry: &Entry<'_>,
        at: &mut At<'_>,
        aliases: &mut Aliases<'_>,
    ) -> bool {
        let shared = self.shared;
        let (Some(fd), Some(meta)) = (at.fd, at.meta) else {
            return true;
        };
        if shared.single.get().is_some() || at.named && !may_fold(fd, entry.name, &meta) {
            return true;
        }
        if at.named && shows(fd, entry.name) {
            if entry.kind == GONE && !self.is_gone(fd, entry.name, at, None, None) {
                at.meta = None;
            }
            return true;
        }
        let Ok(names) = aliases.names(fd, meta.id) else {
            return true;
        };
        let Some(same) = names.here.get(&meta.id) else {
            return true;
        };
        let Some(other) = spelled(same, entry.name).map(Box::<[u8]>::from) else {
            return true; // It came a moment ago.
        };
        if entry.kind == GONE {
            let listed = names.listed.get(&other).copied();
            if !self.is_gone(fd, entry.name, at, Some(&other), listed) {
                at.meta = None;
            }
            return true;
        }
        let dir = &mut dirs.list[at.dir as usize];
        let path = join(&dir.path, &other);
        let case = by_case(&other, entry.name);
        // Of a directory whose names are not read these are the ones that are to go.
        let extra = dir.unlisted.contains(&other);
        let free = match names.listed.get(&other) {
            Some(there) => !there,
            None => extra || at.named && !case && self.is_single(&at.path),
        };
        let private = temp::is_private(&other) || shared.options.filter.excludes(&path, meta.kind == DIRECTORY);
        if !free || private {
            shared.twin(&at.path, &other);
            self.distrust(&at.path, true);
            return false;
        }
        if shared.options.on_conflict != OnConflict::Overwrite && shared.changed_here(&path) {
            shared.out.problem(&shared.counters, problem::CHANGED_HERE, 0, &path);
            self.distrust(&at.path, true);
            return false;
        }
        dir.unlisted.remove(&other);
        if case && !shared.options.dry_run && shared.recase(fd, &other, entry.name).is_ok() {
            names.here.insert(meta.id, vec![entry.name.into()]);
            at.meta = beneath::stat_at(fd, entry.name).ok();
            if let Ok(handles) = shared.handles() {
                handles.forget(&path);
            }
            add(&shared.counters.moved, 1);
            dirs.touch(at.dir);
            tell_gone(shared, split(&path).0, &[&other]);
            shared.restructured(split(&path).0);
        } else {
            aliases.kept.push((i, other));
        }
        true
    }
}

impl Generator<'_> {
    /// Whether what is found by a single name that the source has not goes: it is not what another name stands for there, as
    /// far as that is known. If not, the whole directory is listed next time, which tells.
    fn is_gone(&self, fd: &OwnedFd, name: &[u8], at: &At<'_>, other: Option<&[u8]>, listed: Option<bool>) -> bool {
        let sure = match other {
            // Shown just so. If it is new here, the source may have it composed.
            None => !(is_decomposed(name) && !is_exact(fd) && self.shared.changed_here(&at.path)),
            Some(_) if listed == Some(true) => return false,
            Some(other) => !by_case(other, name) && self.is_single(&at.path),
        };
        if !sure {
            self.distrust(split(&at.path).0, true);
        }
        sure
    }

    /// Whether a single name that is found in another form is not known to be the twin of one. If nothing is known of it,
    /// the whole directory is listed next time, too.
    fn is_single(&self, path: &[u8]) -> bool {
        let Some(tree) = &self.shared.tree else { return true };
        let (known, distrusted) = tree.opinion(path);
        if !known && !distrusted {
            self.distrust(split(path).0, true);
        }
        !distrusted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_is_told_from_form() {
        assert!(by_case(b"Readme", b"README"));
        assert!(by_case("\u{c9}t\u{e9}".as_bytes(), "\u{e9}T\u{c9}".as_bytes()));
        assert!(!by_case("caf\u{e9}".as_bytes(), "cafe\u{301}".as_bytes()));
        assert!(by_case(b"\xffA", b"\xffa") && !by_case(b"\xffA", b"\xfea"));
        assert!(is_decomposed("cafe\u{301}".as_bytes()) && !is_decomposed("caf\u{e9}".as_bytes()));
    }

    #[test]
    fn a_name_is_spelled_as_the_one_most_like_it() {
        let same = |names: &[&str]| names.iter().map(|n| n.as_bytes().into()).collect::<Vec<Box<[u8]>>>();
        assert_eq!(spelled(&same(&["other", "readme"]), b"README"), Some(&b"readme"[..]));
        let forms = same(&["x", "cafe\u{301}"]);
        assert_eq!(spelled(&forms, "caf\u{e9}".as_bytes()), Some("cafe\u{301}".as_bytes()));
        assert_eq!(spelled(&same(&["other", "README"]), b"README"), None);
    }
}
