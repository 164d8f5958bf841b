//! The moment in which a new entry takes its place: owner, mode and time first, then one rename.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::apply::{drop_large, path_of, settled, target};
use super::batch::{Staged, Written};
use super::outbox::add;
use super::state::{Pending, Place};
use super::{Aside, Shared, conflict, groups, problem};
use crate::beneath::{self, join, lock};
use crate::failpoint::{self, Point};
use crate::profile::Stage;
use crate::record::Record;
use crate::temp::Kind;

impl Shared {
    /// Runs `change`, which makes, renames or removes a name in the directory `fd`. One that we own and may not write to is
    /// opened up for it; the caller marks it as touched, so that it gets its mode at the end.
    pub fn in_dir<T>(&self, fd: &OwnedFd, change: impl Fn() -> io::Result<T>) -> io::Result<T> {
        match change() {
            Err(e) if e.raw_os_error() == Some(libc::EACCES) && self.open_up(fd).is_ok() => change(),
            other => other,
        }
    }

    /// Gives the owner, when that is us, all access to a directory.
    pub fn open_up(&self, fd: &OwnedFd) -> io::Result<()> {
        let mode = beneath::stat(fd)?.mode;
        // The parent of a single file is not ours to change.
        if self.single.get().is_some() || mode & 0o700 == 0o700 {
            return Err(io::Error::from_raw_os_error(libc::EACCES));
        }
        beneath::chmod(fd, mode | 0o700)
    }

    /// Puts `temp` in the place of `name`, which held what `place` says when it was compared. A directory that makes
    /// room stays aside until the session finishes, or goes at once when it has to be empty.
    pub fn commit(&self, fd: &OwnedFd, dir: &[u8], temp: &[u8], name: &[u8], place: Place) -> io::Result<()> {
        match self.place_now(fd, name, place)? {
            Place::Absent => beneath::rename_new_at(fd, temp, name),
            Place::File(_) => self.overwrite(fd, dir, temp, name),
            Place::Directory => {
                let aside = self.namer.name(Kind::Aside, name);
                if beneath::exchange_at(fd, temp, name, &aside)? {
                    beneath::rename_new_at(fd, temp, &aside)?;
                }
                if let Ok(handles) = self.handles() {
                    handles.forget(&join(dir, name));
                }
                if !self.deletes() {
                    // It was empty when it was compared. If it is not any more, it comes back.
                    return beneath::rmdir_at(fd, &aside).inspect_err(|_| {
                        let _ = beneath::rename_new_at(fd, name, temp)
                            .and_then(|()| beneath::rename_new_at(fd, &aside, name));
                    });
                }
                let (dir, name) = (dir.to_vec(), name.to_vec());
                lock(&self.asides).push(Aside { dir, name, aside });
                Ok(())
            }
            Place::Kept => conflict::keep_both(fd, temp, name),
            Place::Nowhere => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// One rename. With a trash, what is there has a second name in it before, so that it never has none.
    fn overwrite(&self, fd: &OwnedFd, dir: &[u8], temp: &[u8], name: &[u8]) -> io::Result<()> {
        let Some(trash) = &self.trash else {
            return beneath::rename_at(fd, temp, name);
        };
        let path = join(dir, name);
        if trash.link(self, fd, name, &path)? {
            return beneath::rename_at(fd, temp, name);
        }
        let aside = self.namer.name(Kind::Aside, name);
        let swapped = beneath::exchange_at(fd, temp, name, &aside)?;
        let old = if swapped { temp } else { &aside };
        trash.take(self, fd, old, &path).inspect_err(|_| {
            let _ = match swapped {
                true => beneath::exchange_at(fd, temp, name, &aside).map(drop),
                false => beneath::rename_at(fd, name, temp).and_then(|()| beneath::rename_at(fd, &aside, name)),
            };
        })
    }
}

/// A file that holds all of its content under the name `temp`.
pub struct Ready {
    pub dir: Arc<OwnedFd>,
    pub file: Arc<OwnedFd>,
    pub temp: Vec<u8>,
    /// `Durable::failures` before it was begun.
    pub born: u64,
}

/// What became of a claimed file: it gets its attributes, and its place, at once or with its batch. When that fails, it is
/// gone.
pub fn written(shared: &Shared, pending: &Arc<Pending>, record: &Record, place: Place, ready: io::Result<Ready>) {
    let i = record.index;
    let (_, name, _) = target(shared, pending, i);
    let equipped = ready.and_then(|ready| {
        let equip = || attributes(shared, &ready.file, pending, record);
        let done = shared.profile.time(Stage::Metadata, equip).and_then(|()| {
            // In a directory that has no name yet nothing is in its way.
            if pending.fresh(i).is_some() && ready.temp != name {
                beneath::rename_new_at(&*ready.dir, &ready.temp, name)?;
            }
            shared.durable.wrote(&ready.dir, &ready.file)
        });
        match done {
            Ok(()) => Ok(ready),
            Err(e) => {
                let _ = beneath::unlink_at(&*ready.dir, &ready.temp);
                Err(e)
            }
        }
    });
    let ready = match equipped {
        Ok(ready) => ready,
        Err(e) => return failed(shared, pending, i, &e),
    };
    failpoint::hit(Point::AfterWrite);
    if let Some(fresh) = pending.fresh(i) {
        fresh.applied(i, record.size, ready.born);
        settled(shared, pending, i);
    } else if shared.durable.is_off() {
        match put(shared, &ready.dir, &ready.temp, pending, i, place) {
            Ok(()) => {
                groups::placed(shared, pending, i);
                count(shared, record.size, 1, place == Place::Absent);
                settled(shared, pending, i);
            }
            Err(e) => failed(shared, pending, i, &e),
        }
    } else {
        let what = Written::File(i, record.size, place, ready.temp);
        drop_large(shared, pending, i);
        let pending = Arc::clone(pending);
        let staged = Staged {
            pending,
            what,
            born: ready.born,
        };
        shared.queue.stage(staged, shared.durable.mode());
    }
}

/// Owner, mode and time of a file that is about to take its place; in this order, as chown clears setuid bits.
fn attributes(shared: &Shared, file: &OwnedFd, pending: &Pending, record: &Record) -> io::Result<()> {
    let (_, entry) = pending.entry(record.index);
    let (uid, gid) = shared.owners(entry.uid, entry.gid);
    if uid.is_some() || gid.is_some() {
        shared.forgive(beneath::chown(file, uid, gid))?;
    }
    beneath::chmod(file, record.mode)?;
    beneath::set_mtime(file, record.mtime_s, record.mtime_ns)
}

/// Gives a file its name. When that fails, it is gone.
pub fn put(shared: &Shared, fd: &Arc<OwnedFd>, temp: &[u8], pending: &Pending, i: u32, place: Place) -> io::Result<()> {
    let (dir, name, _) = target(shared, pending, i);
    let commit = || shared.commit(fd, dir, temp, name, place);
    let done = shared.profile.time(Stage::Rename, commit);
    if done.is_err() {
        let _ = beneath::unlink_at(&**fd, temp);
    }
    failpoint::hit(Point::AfterRename);
    done
}

/// So many files of so many bytes are what they are to be.
pub fn count(shared: &Shared, bytes: u64, files: u64, new: bool) {
    let counters = &shared.counters;
    add(&counters.files, files);
    add(&counters.bytes, bytes);
    add(if new { &counters.created } else { &counters.updated }, files);
}

/// A claimed file cannot be kept.
pub fn failed(shared: &Shared, pending: &Arc<Pending>, i: u32, e: &io::Error) {
    let changed = matches!(e.raw_os_error(), Some(libc::EEXIST | libc::EISDIR | libc::ENOTEMPTY));
    let twin = || {
        let (_, name, _) = target(shared, pending, i);
        let dir = pending.dir(shared, i);
        dir.is_ok_and(|fd| shared.is_twin(&fd, name, &path_of(shared, pending, i)))
    };
    if e.raw_os_error() == Some(libc::EEXIST) && twin() {
        return settled(shared, pending, i);
    }
    let code = if changed { problem::CHANGED_HERE } else { problem::WRITE };
    shared.trouble(code, &path_of(shared, pending, i), e);
    settled(shared, pending, i);
}
