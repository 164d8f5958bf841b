//! The end of a session: deletions on proof, then directory metadata, deepest first.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::asides::remove_asides;
use super::conflict::{spare, tell_gone};
use super::dirs::{Dir, Dirs, Here, Parts};
use super::outbox::add;
use super::survey::survey;
use super::{Before, Shared, flush, full, itemize, problem};
use crate::beneath::{self, join, lock};
use crate::profile::Stage;

/// Runs when every wanted entry was resolved and the list had ended well. Whether everything is applied now.
pub fn run(shared: &Shared) -> bool {
    let mut dirs = std::mem::take(&mut *lock(&shared.dirs));
    if shared.options.delete {
        let Some(deleted) = delete(shared, &dirs) else {
            return false;
        };
        // In a list of single names these may have been listed before.
        let directories = deleted.iter().filter(|(_, directory)| *directory);
        directories.for_each(|(path, _)| dirs.retract(path));
    }
    if shared.stopped() {
        return false;
    }
    remove_asides(shared);
    if shared.full.load(Ordering::Acquire) {
        full::fail(shared);
        return false;
    }
    if !shared.options.dry_run {
        for dir in dirs.list.iter().rev().filter(|dir| !dirs.is_retracted(&dir.path)) {
            if shared.stopped() {
                return false;
            }
            shared.profile.time(Stage::Metadata, || metadata(shared, dir));
        }
    }
    *lock(&shared.dirs) = dirs;
    flush::finish(shared)
}

/// Plans all deletions, holds them against the guards, then carries them out: what was planned. None when a guard ended the session.
fn delete(shared: &Shared, dirs: &Dirs) -> Option<Vec<(Vec<u8>, bool)>> {
    let mut planned: Vec<(Vec<u8>, bool)> = Vec::new();
    // Under their old names these were told and counted already.
    let mut moved: Vec<(Vec<u8>, bool)> = Vec::new();
    let mut gone: Vec<(&Dir, Vec<&[u8]>)> = Vec::new();
    for dir in &dirs.list {
        if shared.stopped() {
            return None;
        }
        let extras = dir.here == Here::Existing && dir.complete && !dir.unlisted.is_empty();
        if !extras || dirs.is_retracted(&dir.path) {
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
        names.retain(|name| {
            let path = join(&dir.path, name);
            match survey(shared, &*fd, name, &path) {
                Ok(found) => {
                    let entries = spare(shared, found.entries);
                    let plan = if dir.moved { &mut moved } else { &mut planned };
                    plan.extend_from_slice(&entries);
                    return entries.first().is_some_and(|first| first.0 == path);
                }
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
                Err(e) => shared.trouble(problem::NOT_DELETED, &path, &e),
            }
            false
        });
        gone.push((dir, names));
    }
    let options = &shared.options;
    let source_empty = dirs
        .find(b"")
        .map(|n| &dirs.list[n as usize])
        .is_some_and(|root| root.parts == Parts::All && root.empty);
    if source_empty && !planned.is_empty() && !options.force && matches!(shared.before, Before::Directory(..)) {
        shared.fail(
            "source-empty",
            &shared.root_path,
            0,
            &format!("{} entries would be deleted", planned.len()),
        );
        return None;
    }
    let count = planned.len() as u64 + shared.replaced.load(Ordering::Acquire);
    if let Some(most) = options.max_delete
        && !options.force
        && count > most
    {
        let what = format!("{count} entries would be deleted, more than {most}");
        shared.fail("max-delete", &shared.root_path, 0, &what);
        return None;
    }
    for (dir, names) in gone {
        tell_gone(shared, &dir.path, &names);
    }
    carry_out(shared, &planned, dirs, true);
    carry_out(shared, &moved, dirs, false);
    planned.append(&mut moved);
    Some(planned)
}

/// Removes planned entries, children before parents.
fn carry_out(shared: &Shared, planned: &[(Vec<u8>, bool)], dirs: &Dirs, told: bool) {
    let mut sorted: Vec<&(Vec<u8>, bool)> = planned.iter().collect();
    sorted.sort_unstable_by(|a, b| b.0.cmp(&a.0));
    let mut touched: Option<&[u8]> = None;
    for (path, directory) in sorted {
        if shared.stopped() {
            return;
        }
        if !shared.options.dry_run {
            let removed = remove(shared, path, *directory);
            let (parent, _) = beneath::split(path);
            if touched != Some(parent) {
                touched = Some(parent);
                if let Some(number) = dirs.find(parent) {
                    dirs.touch(number);
                }
            }
            if let Err(e) = removed {
                shared.trouble(problem::NOT_DELETED, path, &e);
                continue;
            }
        }
        if !told {
            continue;
        }
        add(&shared.counters.deleted, 1);
        if shared.options.itemize {
            shared.out.item(&itemize::deleting(path, *directory));
        }
    }
}

/// Removes one entry; one that is gone already is fine.
pub fn remove(shared: &Shared, path: &[u8], directory: bool) -> io::Result<()> {
    let (parent, name) = beneath::split(path);
    let fd = shared.handles()?.dir(parent)?;
    let result = shared.in_dir(&fd, || match directory {
        true => beneath::rmdir_at(&*fd, name),
        false => beneath::unlink_at(&*fd, name),
    });
    if directory {
        shared.handles()?.forget(path);
    }
    match result {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
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
        beneath::set_mtime(&fd, dir.mtime_s, dir.mtime_ns)?;
        shared.durable.changed(&Arc::new(fd))
    };
    if let Err(e) = set() {
        shared.trouble(problem::METADATA, &dir.path, &e);
    }
}
