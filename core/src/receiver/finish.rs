//! The end of a session: deletions on proof, then directory metadata, deepest first.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::asides::remove_asides;
use super::conflict::{spare, tell_gone};
use super::dirs::{Dir, Dirs, Here, Parts};
use super::outbox::add;
use super::survey::survey;
use super::trash::Trash;
use super::{Before, Shared, flush, full, itemize, problem};
use crate::beneath::{self, join, lock};
use crate::list::DIRECTORY;
use crate::profile::Stage;
use crate::temp::TRASH;

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
    if shared.trash.as_ref().is_some_and(Trash::is_made)
        && let Some(root) = dirs.find(b"")
    {
        dirs.touch(root);
        shared.restructured(b"");
    }
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

/// What is to be deleted.
#[derive(Default)]
struct Plan {
    /// Paths, and whether each is a directory; parents before children.
    entries: Vec<(Vec<u8>, bool)>,
    /// Those of which everything that is in them goes, too.
    whole: Vec<Vec<u8>>,
}

/// Plans all deletions, holds them against the guards, then carries them out: what was planned. None when a guard ended the session.
fn delete(shared: &Shared, dirs: &Dirs) -> Option<Vec<(Vec<u8>, bool)>> {
    let mut planned = Plan::default();
    // Under their old names these were told and counted already.
    let mut moved = Plan::default();
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
                    add(&shared.counters.kept_dirs, found.kept);
                    let all = found.entries.len();
                    let entries = spare(shared, found.entries);
                    let plan = if dir.moved { &mut moved } else { &mut planned };
                    if !found.protected && entries.len() == all {
                        plan.whole.push(path.clone());
                    }
                    plan.entries.extend_from_slice(&entries);
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
    if source_empty && !planned.entries.is_empty() && !options.force && matches!(shared.before, Before::Directory(..)) {
        shared.fail(
            "source-empty",
            &shared.root_path,
            0,
            &format!("{} entries would be deleted", planned.entries.len()),
        );
        return None;
    }
    let count = planned.entries.len() as u64;
    if !shared.deletes() {
        if count > 0 {
            add(&shared.counters.held, count);
            shared.out.problem(&shared.counters, problem::HELD, 0, b"");
        }
        return Some(Vec::new());
    }
    if let Some(what) = too_many(shared, count + shared.replaced.load(Ordering::Acquire)) {
        shared.fail("max-delete", &shared.root_path, 0, &what);
        return None;
    }
    for (dir, names) in gone {
        tell_gone(shared, &dir.path, &names);
    }
    carry_out(shared, &planned, dirs, true);
    carry_out(shared, &moved, dirs, false);
    planned.entries.append(&mut moved.entries);
    Some(planned.entries)
}

/// Why so many entries may not go without `force`; None: they may.
fn too_many(shared: &Shared, count: u64) -> Option<String> {
    let options = &shared.options;
    if options.force {
        return None;
    }
    if let Some(most) = options.max_delete.filter(|&most| count > most) {
        return Some(format!("{count} entries would be deleted, more than {most}"));
    }
    let renamed = shared.renamed.load(Ordering::Acquire);
    let lost = count.saturating_sub(renamed);
    let few = options.delete_few?;
    if lost <= few {
        return None;
    }
    // What was made just now was not there before. It is counted a little high, so in doubt this does not stand in the way.
    let counters = &shared.counters;
    let made = counters.created.load(Ordering::Relaxed) + counters.dirs.load(Ordering::Relaxed);
    let made = if options.dry_run {
        0
    } else {
        made.saturating_sub(renamed)
    };
    (!holds(shared, (2 * lost).saturating_add(made)))
        .then(|| format!("{lost} entries would be deleted, more than half of"))
}

/// Whether the destination has at least so many entries. Reads no more directories than it takes to say so.
fn holds(shared: &Shared, many: u64) -> bool {
    let Ok(handles) = shared.handles() else { return false };
    let mut found = 0;
    let mut waiting = vec![Vec::new()];
    while let Some(path) = waiting.pop() {
        let Ok(fd) = handles.root().open_dir(&path) else {
            continue;
        };
        let read = beneath::each_entry(&fd, |name, directory| {
            if name == TRASH {
                return;
            }
            found += 1;
            let directory = directory.or_else(|| Some(beneath::stat_at(&fd, name).ok()?.kind == DIRECTORY));
            if directory == Some(true) {
                waiting.push(join(&path, name));
            }
        });
        if found >= many || shared.stopped() {
            return true;
        }
        drop(read);
    }
    false
}

/// Removes what is planned, children before parents.
fn carry_out(shared: &Shared, plan: &Plan, dirs: &Dirs, told: bool) {
    let mut sorted: Vec<&(Vec<u8>, bool)> = plan.entries.iter().collect();
    sorted.sort_unstable_by(|a, b| b.0.cmp(&a.0));
    let (kept, failed) = put_aside(shared, plan);
    let mut touched: Option<&[u8]> = None;
    for (path, directory) in sorted {
        if shared.stopped() {
            return;
        }
        if !shared.options.dry_run {
            let removed = match within(&failed, path) {
                Some(_) => continue,
                None if within(&kept, path).is_some() => Ok(()),
                None => remove(shared, path, path, *directory),
            };
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

/// Moves to the trash, if there is one, what goes with all that is in it. The paths of which that is done, and of which it
/// failed, which was told.
fn put_aside<'a>(shared: &Shared, plan: &'a Plan) -> (HashSet<&'a [u8]>, HashSet<&'a [u8]>) {
    let (mut kept, mut failed) = (HashSet::new(), HashSet::new());
    let Some(trash) = shared.trash.as_ref().filter(|_| !shared.options.dry_run) else {
        return (kept, failed);
    };
    for path in plan.whole.iter().take_while(|_| !shared.stopped()) {
        match put_away(shared, trash, path, path) {
            Ok(()) => kept.insert(&path[..]),
            Err(e) => {
                shared.trouble(problem::NOT_DELETED, path, &e);
                failed.insert(&path[..])
            }
        };
    }
    (kept, failed)
}

/// Moves what is at `path`, and stood at `stood`, to the trash; what is gone already is fine.
pub fn put_away(shared: &Shared, trash: &Trash, path: &[u8], stood: &[u8]) -> io::Result<()> {
    let (parent, name) = beneath::split(path);
    let handles = shared.handles()?;
    let done = trash.take(shared, &*handles.dir(parent)?, name, stood);
    handles.forget(path);
    match done {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

/// The one of `paths` that is `path`, or that it is in.
fn within<'a>(paths: &HashSet<&'a [u8]>, mut path: &[u8]) -> Option<&'a [u8]> {
    while !paths.is_empty() && !path.is_empty() {
        if let Some(found) = paths.get(path) {
            return Some(found);
        }
        path = beneath::split(path).0;
    }
    None
}

/// Removes the entry at `path`, which stood at `stood`; one that is gone already is fine. With a trash, files go there.
pub fn remove(shared: &Shared, path: &[u8], stood: &[u8], directory: bool) -> io::Result<()> {
    if let Some(trash) = shared.trash.as_ref().filter(|_| !directory) {
        return put_away(shared, trash, path, stood);
    }
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
        let fd: OwnedFd = shared.handles()?.own(&dir.path)?;
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
