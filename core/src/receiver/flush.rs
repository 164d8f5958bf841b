//! One batch: what was written is synced, gets its names, and is told of when these are synced, too.

use std::io;
use std::sync::Arc;

use super::apply::{ask_again, came_wrong, path_of, target, told};
use super::batch::{Named, Placed, Staged, Written};
use super::commit::{count, failed, put};
use super::durable::Fsync;
use super::state::{Pending, Place, Seen};
use super::{Shared, groups, problem};
use crate::beneath;
use crate::failpoint::{self, Point};
use crate::profile::Stage;

/// `Job::Commit`: what the batch before has renamed is told of, and what this one wrote gets its names.
pub fn run(shared: &Shared) {
    let (staged, placed) = shared.queue.take_batch();
    let (mut named, mut resolved) = (Vec::new(), 0);
    match sync(shared) {
        Ok(()) => {
            tell(shared, placed);
            failpoint::hit(Point::AfterSync);
            for one in staged {
                resolved += place(shared, one, &mut named);
            }
            if shared.durable.mode() == Fsync::Always {
                match sync(shared) {
                    Ok(()) => tell(shared, std::mem::take(&mut named)),
                    Err(e) => again(shared, std::mem::take(&mut named), &e),
                }
            }
        }
        Err(e) => {
            again(shared, placed, &e);
            staged.into_iter().for_each(|one| drop_staged(shared, one, &e));
        }
    }
    shared.queue.committed(named, resolved);
}

/// The last of it, with what was done at the end of the session. False: some has to come again.
pub fn finish(shared: &Shared) -> bool {
    let (_, placed) = shared.queue.take_batch();
    match sync(shared) {
        Ok(()) => {
            tell(shared, placed);
            true
        }
        Err(e) if placed.is_empty() => {
            shared.trouble(problem::WRITE, b"", &e);
            true
        }
        Err(e) => {
            again(shared, placed, &e);
            false
        }
    }
}

/// The session ends early: what is here whole gets its name, and is sent to no one again.
pub fn keep(shared: &Shared) {
    if shared.durable.is_off() {
        return;
    }
    let (staged, _) = shared.queue.take_batch();
    let kept = staged.is_empty() || sync(shared).is_ok();
    for one in staged {
        match kept {
            true => drop(place(shared, one, &mut Vec::new())),
            false => unlink(shared, &one),
        }
    }
}

fn sync(shared: &Shared) -> io::Result<()> {
    shared.profile.time(Stage::Sync, || shared.durable.sync())
}

/// Gives it its name. How many entries are resolved by that, which are not when it is told of at once.
fn place(shared: &Shared, one: Staged, named: &mut Vec<Placed>) -> u64 {
    let Staged { pending, what, born } = one;
    if born < shared.durable.failures() {
        let e = io::Error::from_raw_os_error(libc::EIO);
        drop_staged(shared, Staged { pending, what, born }, &e);
        return 0;
    }
    match what {
        Written::File(i, bytes, place, temp) => {
            let done = pending.dir(shared, i).and_then(|dir| {
                put(shared, &dir, &temp, &pending, i, place)?;
                // What made room went to another directory, or has yet to go.
                match place == Place::Directory || shared.trash.is_some() {
                    true => shared.durable.restructured(&dir),
                    false => shared.durable.changed(&dir),
                }
            });
            if let Err(e) = done {
                failed(shared, &pending, i, &e);
                return 0;
            }
            groups::placed(shared, &pending, i);
            let what = Named::File(i, bytes, place == Place::Absent);
            named.push(Placed { pending, what });
            1
        }
        Written::Fresh(fresh, entries, _) => {
            let placed = fresh.place(shared);
            if !placed {
                told(shared, &pending, entries);
            } else {
                let what = Named::Fresh(fresh, entries);
                named.push(Placed { pending, what });
            }
            entries
        }
    }
}

/// It is on disk under its name.
fn tell(shared: &Shared, placed: Vec<Placed>) {
    if placed.is_empty() {
        return;
    }
    failpoint::hit(Point::AfterDirsync);
    for Placed { pending, what } in placed {
        let entries = match what {
            Named::File(_, bytes, new) => {
                count(shared, bytes, 1, new);
                1
            }
            Named::Fresh(fresh, entries) => {
                fresh.count(shared);
                entries
            }
            Named::Link(_) => 1,
        };
        told(shared, &pending, entries);
    }
}

/// What was written may not be on disk, and never will be: it goes, and has to come again.
fn drop_staged(shared: &Shared, one: Staged, e: &io::Error) {
    unlink(shared, &one);
    let wrong = (problem::WRITE, e.raw_os_error().unwrap_or(libc::EIO));
    match one.what {
        Written::File(i, _, place, _) => came_wrong(shared, &one.pending, i, place, wrong),
        Written::Fresh(fresh, ..) => fresh.again(shared, &one.pending, wrong),
    }
}

fn unlink(shared: &Shared, one: &Staged) {
    if let Written::File(i, _, _, temp) = &one.what
        && let Ok(dir) = one.pending.dir(shared, *i)
    {
        let _ = beneath::unlink_at(&*dir, temp);
    }
}

/// What has its name may lose it: it has to come again, too.
fn again(shared: &Shared, placed: Vec<Placed>, e: &io::Error) {
    let errno = e.raw_os_error().unwrap_or(libc::EIO);
    for Placed { pending, what } in placed {
        match what {
            Named::File(i, ..) => once_more(shared, &pending, i, errno),
            Named::Fresh(fresh, entries) => {
                let files = fresh.take_applied();
                told(shared, &pending, entries - files.len() as u64);
                files.into_iter().for_each(|i| once_more(shared, &pending, i, errno));
            }
            Named::Link(i) => {
                shared
                    .out
                    .problem(&shared.counters, problem::WRITE, errno, &path_of(shared, &pending, i));
                told(shared, &pending, 1);
            }
        }
    }
}

fn once_more(shared: &Shared, pending: &Arc<Pending>, i: u32, errno: i32) {
    let stands = pending.dir(shared, i).and_then(|dir| {
        let (_, name, _) = target(shared, pending, i);
        beneath::stat_at(&*dir, name)
    });
    let place = stands.map_or(Place::Absent, |meta| Place::File(Seen::new(&meta)));
    // Before the answer can come.
    shared.queue.reopen(1);
    if !ask_again(shared, pending, i, place) {
        shared
            .out
            .problem(&shared.counters, problem::WRITE, errno, &path_of(shared, pending, i));
        told(shared, pending, 1);
        shared.queue.resolved(1);
    }
}
