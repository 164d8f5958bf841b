//! The end of a session: deletions on proof, then directory metadata, deepest first.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use super::dirs::{Dir, Dirs, Here};
use super::outbox::add;
use super::{Before, Shared, itemize, problem};
use crate::beneath::{self, join, lock};
use crate::list::DIRECTORY;

/// What removing one entry would remove, parents before children.
pub struct Survey {
    /// Paths below the root, and whether each is a directory.
    pub entries: Vec<(Vec<u8>, bool)>,
    /// Something in it is protected by a filter: that, and the directories it is in, are not among `entries`.
    pub protected: bool,
}

/// Lists `name` in `dir` (whose path below the root is `path`) with everything below it. Iterative: depth is bounded
/// by nothing but the tree. Handles are reopened level by level, so few are open at a time.
pub fn survey(shared: &Shared, dir: impl AsFd, name: &[u8], path: &[u8]) -> io::Result<Survey> {
    let meta = beneath::stat_at(&dir, name)?;
    let directory = meta.kind == DIRECTORY;
    let mut survey = Survey {
        entries: Vec::new(),
        protected: false,
    };
    if shared.options.filter.excludes(path, directory) {
        survey.protected = true;
        return Ok(survey);
    }
    survey.entries.push((path.to_vec(), directory));
    let mut kept: Vec<Vec<u8>> = Vec::new();
    let mut at = 0;
    while at < survey.entries.len() {
        let (here, directory) = survey.entries[at].clone();
        at += 1;
        if !directory {
            continue;
        }
        let below = &here[path.len()..];
        let fd = if below.is_empty() {
            beneath::open_dir_at(&dir, name)?
        } else {
            beneath::Root::from_fd(beneath::open_dir_at(&dir, name)?).open_dir(&below[1..])?
        };
        let mut names = Vec::new();
        beneath::each_name(&fd, |n| names.push(n.to_vec()))?;
        for n in names {
            let inner = join(&here, &n);
            let directory = beneath::stat_at(&fd, &n)?.kind == DIRECTORY;
            if shared.options.filter.excludes(&inner, directory) {
                survey.protected = true;
                kept.push(inner);
            } else {
                survey.entries.push((inner, directory));
            }
        }
    }
    // A directory that holds something protected stays.
    survey.entries.retain(|(entry, directory)| {
        !directory
            || !kept
                .iter()
                .any(|k| k.starts_with(entry) && k.get(entry.len()) == Some(&b'/'))
    });
    Ok(survey)
}

/// Runs when every wanted entry was resolved and the list had ended well.
pub fn run(shared: &Shared) {
    let dirs = std::mem::take(&mut *lock(&shared.dirs));
    if shared.options.delete && !delete(shared, &dirs) {
        return;
    }
    remove_asides(shared);
    if shared.full.load(Ordering::Acquire) {
        shared.fail("destination-full", &shared.root_path, libc::ENOSPC, "writing");
        return;
    }
    if !shared.options.dry_run {
        for dir in dirs.list.iter().rev() {
            if shared.stopped() {
                return;
            }
            metadata(shared, dir);
        }
    }
    shared.out.done();
}

/// Plans all deletions, holds them against the guards, then carries them out. False when a guard ended the session.
fn delete(shared: &Shared, dirs: &Dirs) -> bool {
    let mut planned: Vec<(Vec<u8>, bool)> = Vec::new();
    let mut kept = 0;
    for dir in &dirs.list {
        if shared.stopped() {
            return false;
        }
        kept += 1;
        if dir.here != Here::Existing || !dir.complete || dir.unlisted.is_empty() {
            continue;
        }
        let fd = match shared.handles().and_then(|h| h.dir(&dir.path)) {
            Ok(fd) => fd,
            Err(e) => {
                shared.trouble(problem::NOT_DELETED, &dir.path, &e);
                continue;
            }
        };
        let mut names: Vec<&[u8]> = dir.unlisted.iter().map(|n| &**n).collect();
        names.sort_unstable();
        for name in names {
            let path = join(&dir.path, name);
            match survey(shared, &*fd, name, &path) {
                Ok(found) => planned.extend(found.entries),
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
                Err(e) => shared.trouble(problem::NOT_DELETED, &path, &e),
            }
        }
    }
    let options = &shared.options;
    let source_empty = kept <= 1 && shared.counters.listed.load(Ordering::Acquire) <= 1;
    if source_empty && !planned.is_empty() && !options.force && matches!(shared.before, Before::Directory(_)) {
        shared.fail(
            "source-empty",
            &shared.root_path,
            0,
            &format!("{} entries would be deleted", planned.len()),
        );
        return false;
    }
    let asides = lock(&shared.asides).len() as u64;
    if let Some(most) = options.max_delete
        && !options.force
        && planned.len() as u64 + asides > most
    {
        let what = format!(
            "{} entries would be deleted, more than {most}",
            planned.len() as u64 + asides
        );
        shared.fail("max-delete", &shared.root_path, 0, &what);
        return false;
    }
    carry_out(shared, &planned, dirs);
    true
}

/// Removes planned entries, children before parents.
fn carry_out(shared: &Shared, planned: &[(Vec<u8>, bool)], dirs: &Dirs) {
    let mut sorted: Vec<&(Vec<u8>, bool)> = planned.iter().collect();
    sorted.sort_unstable_by(|a, b| b.0.cmp(&a.0));
    let mut touched: Option<&[u8]> = None;
    for (path, directory) in sorted {
        if shared.stopped() {
            return;
        }
        if !shared.options.dry_run {
            if let Err(e) = remove(shared, path, *directory) {
                shared.trouble(problem::NOT_DELETED, path, &e);
                continue;
            }
            let (parent, _) = beneath::split(path);
            if touched != Some(parent) {
                touched = Some(parent);
                if let Some(number) = dirs.find(parent) {
                    dirs.touch(number);
                }
            }
        }
        add(&shared.counters.deleted, 1);
        if shared.options.itemize {
            shared.out.item(&itemize::deleting(path, *directory));
        }
    }
}

fn remove(shared: &Shared, path: &[u8], directory: bool) -> io::Result<()> {
    let (parent, name) = beneath::split(path);
    let fd = shared.handles()?.dir(parent)?;
    let unlink = || {
        if directory {
            beneath::rmdir_at(&*fd, name)
        } else {
            beneath::unlink_at(&*fd, name)
        }
    };
    let mut result = unlink();
    if result.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::EACCES)) {
        // the directory goes too, being read-only does not save what is in it
        let mode = beneath::stat(&*fd)?.mode;
        if mode & 0o300 != 0o300 && beneath::chmod(&*fd, mode | 0o700).is_ok() {
            result = unlink();
        }
    }
    if directory {
        shared.handles()?.forget(path);
    }
    match result {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

/// Removes what made room for another type.
fn remove_asides(shared: &Shared) {
    for aside in std::mem::take(&mut *lock(&shared.asides)) {
        let stood = join(&aside.dir, &aside.name);
        let stands = join(&aside.dir, &aside.aside);
        let removed = shared.handles().and_then(|h| h.dir(&aside.dir)).and_then(|fd| {
            for (path, directory) in survey(shared, &*fd, &aside.aside, &stands)?.entries.iter().rev() {
                remove(shared, path, *directory)?;
                add(&shared.counters.deleted, 1);
                if shared.options.itemize && path.len() > stands.len() {
                    let shown = join(&stood, &path[stands.len() + 1..]);
                    shared.out.item(&itemize::deleting(&shown, *directory));
                }
            }
            Ok(())
        });
        if let Err(e) = removed {
            shared.trouble(problem::NOT_DELETED, &stood, &e);
        }
    }
}

/// Sets a directory's owner, mode and time, where they differ or something inside was changed.
fn metadata(shared: &Shared, dir: &Dir) {
    let touched = dir.touched.load(Ordering::Acquire);
    if !(touched || dir.differs) || matches!(dir.here, Here::Absent | Here::Blocked) {
        return;
    }
    if shared.single.get().is_some() {
        return; // the parent of a single file is not ours
    }
    if dir.differs {
        add(&shared.counters.meta, 1);
    }
    let set = || -> io::Result<()> {
        let fd: OwnedFd = shared.handles()?.root().open_dir(&dir.path)?;
        let meta = beneath::stat(&fd)?;
        let (uid, gid) = shared.owners(dir.uid, dir.gid);
        let owned = uid.is_none_or(|u| u == meta.uid) && gid.is_none_or(|g| g == meta.gid);
        if !owned {
            shared.forgive(beneath::chown(&fd, uid, gid))?;
        }
        if meta.mode != dir.mode || !owned {
            beneath::chmod(&fd, dir.mode)?;
        }
        beneath::set_mtime(&fd, dir.mtime_s, dir.mtime_ns)
    };
    if let Err(e) = set() {
        shared.trouble(problem::METADATA, &dir.path, &e);
    }
}

/// The session failed or was cancelled: puts back what stood aside, removes temporary files, keeps large partials.
pub fn roll_back(shared: &Shared) {
    for aside in std::mem::take(&mut *lock(&shared.asides)) {
        let Ok(fd) = shared.handles().and_then(|h| h.dir(&aside.dir)) else {
            continue;
        };
        // A directory that replaced a file goes back only while nothing came into it; a file that replaced a
        // directory is sent again.
        let cleared = match beneath::stat_at(&*fd, &aside.name) {
            Ok(meta) if meta.kind == DIRECTORY => beneath::rmdir_at(&*fd, &aside.name),
            Ok(_) => beneath::unlink_at(&*fd, &aside.name),
            Err(e) => Err(e),
        };
        let missing = matches!(&cleared, Err(e) if e.raw_os_error() == Some(libc::ENOENT));
        if cleared.is_ok() || missing {
            let _ = beneath::rename_new_at(&*fd, &aside.aside, &aside.name);
        } else if !matches!(beneath::stat_at(&*fd, &aside.aside), Ok(meta) if meta.kind == DIRECTORY) {
            let _ = beneath::unlink_at(&*fd, &aside.aside);
        }
    }
    let large = std::mem::take(&mut *lock(&shared.large));
    for ((chunk, index), large) in large {
        let Some((file, temp)) = large.abandon() else {
            continue;
        };
        let keep = beneath::stat(&*file).is_ok_and(|m| m.size >= shared.options.partial_min);
        let pending = lock(&shared.pending).get(&chunk).cloned();
        if let (false, Some(pending)) = (keep, pending) {
            let (dir, ..) = super::apply::target(shared, &pending, index);
            let removed = shared
                .handles()
                .and_then(|h| h.dir(dir))
                .and_then(|fd| beneath::unlink_at(&*fd, &temp));
            drop(removed);
        }
    }
}
