//! The moment in which a new entry takes its place: owner, mode and time first, then one rename.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::apply::{path_of, settled};
use super::outbox::add;
use super::state::{Pending, Place};
use super::{Aside, Shared, conflict, groups, problem};
use crate::beneath::{self, join, lock};
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
        match place {
            Place::Absent => beneath::rename_new_at(fd, temp, name),
            Place::File => beneath::rename_at(fd, temp, name),
            Place::Directory => {
                let aside = self.namer.name(Kind::Aside, name);
                if beneath::exchange_at(fd, temp, name, &aside)? {
                    beneath::rename_new_at(fd, temp, &aside)?;
                }
                if let Ok(handles) = self.handles() {
                    handles.forget(&join(dir, name));
                }
                if !self.options.delete {
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
}

/// Gives `file`, which holds all of a file's content under the name `temp`, its attributes and its place. When that
/// fails, `temp` is gone.
pub fn publish(
    shared: &Shared,
    fd: &OwnedFd,
    file: &OwnedFd,
    temp: &[u8],
    pending: &Pending,
    record: &Record,
    place: Place,
) -> io::Result<()> {
    let (dir, name, _) = super::apply::target(shared, pending, record.index);
    // In a directory that has no name yet a file was made in its place.
    let commit = || {
        if temp == name {
            Ok(())
        } else {
            shared.commit(fd, dir, temp, name, place)
        }
    };
    let done = shared
        .profile
        .time(Stage::Metadata, || attributes(shared, file, pending, record))
        .and_then(|()| shared.profile.time(Stage::Rename, commit));
    if done.is_err() {
        let _ = beneath::unlink_at(fd, temp);
    }
    done
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

/// What became of a claimed file.
pub fn finished(shared: &Shared, pending: &Arc<Pending>, record: &Record, place: Place, written: io::Result<()>) {
    let i = record.index;
    match written {
        Ok(()) => match pending.fresh(i) {
            Some(fresh) => fresh.applied(record.size),
            None => {
                add(&shared.counters.files, 1);
                add(&shared.counters.bytes, record.size);
                let counter = if place == Place::Absent {
                    &shared.counters.created
                } else {
                    &shared.counters.updated
                };
                add(counter, 1);
                groups::placed(shared, pending, i);
            }
        },
        Err(e) => {
            let changed = matches!(e.raw_os_error(), Some(libc::EEXIST | libc::EISDIR | libc::ENOTEMPTY));
            let code = if changed { problem::CHANGED_HERE } else { problem::WRITE };
            shared.trouble(code, &path_of(shared, pending, i), &e);
        }
    }
    settled(shared, pending, i);
}
