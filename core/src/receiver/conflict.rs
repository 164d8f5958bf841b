//! What someone else changed here since the last sync, where the list wants something else.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::SystemTime;

use super::compare::Generator;
use super::entries::At;
use super::outbox::add;
use super::state::Place;
use super::{Shared, problem};
use crate::beneath::{self, split};
use crate::list::{COMPONENT_MAX, DIRECTORY, GONE};
use crate::tree::{Expected, Rest};

const MARK: &[u8] = b".conflict-";
/// Names that are tried for what is kept, all of one second.
const NAMES_MAX: u32 = 1_000;

/// What becomes of such an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// It is replaced, and counted.
    Overwrite,
    /// It is left, and is a problem.
    Stop,
    /// It gets a name of its own, and is counted.
    KeepBoth,
}

impl OnConflict {
    /// By its name in OPEN.
    pub fn new(name: &str) -> Option<Self> {
        match name {
            "overwrite" => Some(Self::Overwrite),
            "stop" => Some(Self::Stop),
            "keep-both" => Some(Self::KeepBoth),
            _ => None,
        }
    }
}

/// What to do with one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Go,
    /// Go on, but keep what is there.
    Keep,
    /// Leave it, which was told.
    Leave,
}

impl Generator<'_> {
    /// What is at `at` is about to change: whether it may. A directory's own attributes are not asked about.
    pub(super) fn conflict(&self, at: &At<'_>) -> Verdict {
        let shared = self.shared;
        let Some(meta) = at.meta.filter(|_| shared.changed_here(&at.path)) else {
            return Verdict::Go;
        };
        match shared.options.on_conflict {
            OnConflict::KeepBoth if meta.kind != DIRECTORY => {
                add(&shared.counters.conflicts, 1);
                Verdict::Keep
            }
            OnConflict::Overwrite => {
                add(&shared.counters.conflicts, 1);
                Verdict::Go
            }
            _ => {
                shared.out.problem(&shared.counters, problem::CHANGED_HERE, 0, &at.path);
                self.distrust(&at.path, true);
                Verdict::Leave
            }
        }
    }

    /// Whether a directory with these entries may make room for something else.
    pub(super) fn may_go(&self, at: &At<'_>, entries: &[(Vec<u8>, bool)]) -> bool {
        let shared = self.shared;
        let theirs = |(path, directory): &&(Vec<u8>, bool)| !directory && shared.changed_here(path);
        let count = entries.iter().filter(theirs).count() as u64;
        if count > 0 && shared.options.on_conflict != OnConflict::Overwrite {
            self.distrust(&at.path, true);
            return false;
        }
        add(&shared.counters.conflicts, count);
        true
    }
}

impl Shared {
    /// What the place of `name` in `fd`, which held what `place` says when it was compared, is now. Err: it has to stay.
    pub(super) fn place_now(&self, fd: &OwnedFd, name: &[u8], place: Place) -> io::Result<Place> {
        let Place::File(seen) = place else {
            return Ok(place);
        };
        let meta = match beneath::stat_at(fd, name) {
            Ok(meta) => meta,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(Place::Absent),
            Err(e) => return Err(e),
        };
        if seen.fits(&meta) {
            return Ok(place);
        }
        match self.options.on_conflict {
            _ if meta.kind == DIRECTORY => Err(io::Error::from_raw_os_error(libc::EISDIR)),
            OnConflict::Stop => Err(io::Error::from_raw_os_error(libc::EEXIST)),
            OnConflict::Overwrite => {
                add(&self.counters.conflicts, 1);
                Ok(place)
            }
            OnConflict::KeepBoth => {
                add(&self.counters.conflicts, 1);
                Ok(Place::Kept)
            }
        }
    }
}

/// Takes out of what is to be deleted what is not, with the directories that it is in: what someone else changed here,
/// and what was kept before.
pub fn spare(shared: &Shared, mut entries: Vec<(Vec<u8>, bool)>) -> Vec<(Vec<u8>, bool)> {
    let choice = shared.options.on_conflict;
    let mut kept: HashSet<Vec<u8>> = HashSet::new();
    for (path, _) in entries.iter().filter(|(_, directory)| !directory) {
        let copy = choice == OnConflict::KeepBoth && is_kept(split(path).1);
        if !copy && !shared.changed_here(path) {
            continue;
        }
        if choice != OnConflict::Stop && !copy {
            add(&shared.counters.conflicts, 1);
        }
        if choice == OnConflict::Overwrite {
            continue;
        }
        if choice == OnConflict::Stop {
            shared.out.problem(&shared.counters, problem::CHANGED_HERE, 0, path);
        }
        left(shared, path, copy);
        let mut holder = &path[..];
        while !holder.is_empty() && kept.insert(holder.to_vec()) {
            holder = split(holder).0;
        }
    }
    if !kept.is_empty() {
        entries.retain(|(path, _)| !kept.contains(path));
    }
    entries
}

/// Whether what the source does not have at `path` any more is someone else's.
pub fn is_theirs(shared: &Shared, path: &[u8]) -> bool {
    let copy = shared.options.on_conflict == OnConflict::KeepBoth && is_kept(split(path).1);
    copy || shared.changed_here(path)
}

/// Something that only the destination has stays. It is expected to be gone all the same: so it is found to be someone
/// else's by every session, and stays in each of them. A copy is known by its name, and is agreed to.
fn left(shared: &Shared, path: &[u8], copy: bool) {
    let Some(tree) = shared.told() else { return };
    let (dir, name) = split(path);
    if !copy {
        return tell_gone(shared, dir, &[name]);
    }
    let meta = shared.handles().and_then(|h| beneath::stat_at(&*h.dir(dir)?, name));
    if let Ok(meta) = meta {
        let expected = Expected {
            kind: meta.kind,
            mode: meta.mode,
            size: meta.size,
            mtime: (meta.mtime_s, meta.mtime_ns),
        };
        tree.expect_group(dir, None, &mut std::iter::once((name, expected)), Rest::Unsaid);
    }
}

/// Names of one directory that are to be gone.
pub fn tell_gone(shared: &Shared, dir: &[u8], names: &[&[u8]]) {
    let gone = Expected {
        kind: GONE,
        mode: 0,
        size: 0,
        mtime: (0, 0),
    };
    if let (Some(tree), false) = (shared.told(), names.is_empty()) {
        tree.expect_group(dir, None, &mut names.iter().map(|name| (*name, gone)), Rest::Unsaid);
    }
}

/// Puts `temp` in the place of `name`, and keeps what is there under a name of its own.
pub fn keep_both(dir: impl AsFd, temp: &[u8], name: &[u8]) -> io::Result<()> {
    with_free_name(name, |kept| {
        if !beneath::exchange_at(&dir, temp, name, kept)? {
            return Ok(());
        }
        beneath::rename_new_at(&dir, temp, kept).inspect_err(|_| {
            let _ = beneath::exchange_at(&dir, temp, name, kept);
        })
    })
}

/// Gives what is at `name` a name of its own.
pub fn move_away(dir: impl AsFd, name: &[u8]) -> io::Result<()> {
    with_free_name(name, |kept| beneath::rename_new_at(&dir, name, kept))
}

fn with_free_name(name: &[u8], put: impl Fn(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let stamp = stamp(now.map_or(0, |d| d.as_secs()));
    for count in 1..=NAMES_MAX {
        match put(&kept_name(name, &stamp, count)) {
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {}
            other => return other,
        }
    }
    Err(io::Error::from_raw_os_error(libc::EEXIST))
}

/// `NAME.conflict-YYYYMMDD-HHMMSS`, from the second one on with a count, cut to what a name may be.
fn kept_name(name: &[u8], stamp: &str, count: u32) -> Vec<u8> {
    let more = if count > 1 { format!("-{count}") } else { String::new() };
    let tail = [MARK, stamp.as_bytes(), more.as_bytes()].concat();
    [&name[..name.len().min(COMPONENT_MAX - tail.len())], &tail].concat()
}

/// Whether a name is of that form.
fn is_kept(name: &[u8]) -> bool {
    let Some(at) = name.windows(MARK.len()).rposition(|part| part == MARK) else {
        return false;
    };
    let mut parts = name[at + MARK.len()..].split(|&b| b == b'-');
    let mut digits = |len: Option<usize>| {
        parts
            .next()
            .map(|part| !part.is_empty() && part.iter().all(u8::is_ascii_digit) && len.is_none_or(|n| n == part.len()))
    };
    at > 0 && digits(Some(8)) == Some(true) && digits(Some(6)) == Some(true) && digits(None) != Some(false) && {
        digits(None).is_none()
    }
}

/// A Unix time as `YYYYMMDD-HHMMSS`, UTC. The date is H. Hinnant's `civil_from_days`
/// (howardhinnant.github.io/date_algorithms.html), for days from 1970 on.
fn stamp(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153; // months from March on
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_what_is_kept_say_when_and_are_known_again() {
        assert_eq!(stamp(0), "19700101-000000");
        assert_eq!(stamp(951_827_696), "20000229-123456");
        assert_eq!(stamp(4_107_542_400), "21000301-000000");
        for count in [1, 2, 1_000] {
            for name in [&b"a"[..], b".x", b"a.conflict-1", &[b'n'; 255]] {
                let kept = kept_name(name, &stamp(951_827_696), count);
                assert!(kept.len() <= COMPONENT_MAX && is_kept(&kept), "{name:?}");
                assert!(!is_kept(name));
            }
        }
        for name in [
            &b".conflict-20000229-123456"[..],
            b"a.conflict-20000229",
            b"a.conflict-2000022x-123456",
            b"a.conflict-20000229-123456-",
            b"a.conflict-20000229-123456-1-2",
            b"a.conflict-20000229-123456.txt",
        ] {
            assert!(!is_kept(name), "{name:?}");
        }
    }
}
