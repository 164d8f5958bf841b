//! What the source has under another name now takes its new place here, too, instead of being sent.
//!
//! The list says what path an entry had; that is a hint, and nothing rests on it. A directory that was renamed is compared
//! with its complete listing as any other that was there. A file has to have the listed size and time, as one that stays.
//! What is excluded here, and what someone else changed here, is not used.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::compare::Generator;
use super::conflict::{self, tell_gone};
use super::dirs::Dirs;
use super::entries::At;
use super::itemize::{self, Differs};
use super::outbox::add;
use super::survey::survey;
use super::{Shared, problem};
use crate::beneath::{self, Meta, lock, split};
use crate::holes;
use crate::list::{DIRECTORY, Entry, SYMLINK};
use crate::rw::copy_file;
use crate::temp::{self, Kind};

/// What stands where an entry was moved from.
pub struct Origin<'a> {
    /// Below the root.
    pub path: &'a [u8],
    /// Its directory.
    pub fd: Arc<OwnedFd>,
    /// In that.
    pub name: &'a [u8],
    /// Of the entry's type.
    pub meta: Meta,
}

impl Shared {
    /// What stands where the list says that an entry was. None: nothing of its type that may be looked at.
    pub fn origin<'a>(&self, entry: &Entry<'a>) -> Option<Origin<'a>> {
        let path = entry.target;
        if entry.kind == SYMLINK || path.is_empty() {
            return None;
        }
        let mut end = 0;
        for component in path.split(|&b| b == b'/') {
            end += usize::from(end > 0) + component.len();
            let directory = end < path.len() || entry.kind == DIRECTORY;
            if self.options.filter.excludes(&path[..end], directory) || temp::is_private(component) {
                return None;
            }
        }
        let (dir, name) = split(path);
        let fd = self.handles().and_then(|h| h.dir(dir)).ok()?;
        let meta = beneath::stat_at(&*fd, name).ok()?;
        let fits = meta.kind == entry.kind;
        fits.then_some(Origin { path, fd, name, meta })
    }

    /// Whether so many more entries may go.
    fn may_delete(&self, count: u64) -> bool {
        let options = &self.options;
        let most = options.max_delete.filter(|_| !options.force);
        most.is_none_or(|most| self.replaced.load(Ordering::Acquire) + count <= most)
    }

    /// Gives what is at `origin` the new name, which must not exist.
    fn rename(&self, origin: &Origin<'_>, fd: &OwnedFd, name: &[u8]) -> io::Result<()> {
        let from = &*origin.fd;
        self.in_dir(from, || {
            self.in_dir(fd, || beneath::move_new_at(from, origin.name, fd, name))
        })?;
        if beneath::stat_at(fd, name)?.id == origin.meta.id {
            return Ok(());
        }
        // Someone put another one there a moment ago.
        beneath::move_new_at(fd, name, from, origin.name)?;
        Err(io::ErrorKind::NotFound.into())
    }
}

impl Generator<'_> {
    /// Renames the directory that is to be at `at`, where nothing is: what it is there. None: it is to be made.
    pub(super) fn move_dir(&self, dirs: &Dirs, entry: &Entry<'_>, at: &At<'_>) -> Option<Meta> {
        let shared = self.shared;
        let options = &shared.options;
        let listing = !at.named || entry.size == 1;
        let fd = at.fd.filter(|_| at.meta.is_none() && listing && shared.deletes())?;
        let origin = shared.origin(entry)?;
        // What is listed at its old place is not gone.
        if dirs.find(origin.path).is_some() {
            return None;
        }
        let inside = survey(shared, &*origin.fd, origin.name, origin.path).ok()?;
        let theirs = |(path, directory): &(Vec<u8>, bool)| !directory && conflict::is_theirs(shared, path);
        if inside.protected || inside.entries.iter().any(theirs) || !shared.may_delete(inside.entries.len() as u64) {
            return None;
        }
        let count = inside.entries.len() as u64;
        if !options.dry_run {
            shared.rename(&origin, fd, entry.name).ok()?;
        }
        shared.renamed.fetch_add(count, Ordering::Release);
        if options.dry_run {
            return None;
        }
        if let Ok(handles) = shared.handles() {
            handles.forget(origin.path);
        }
        lock(&shared.moved).insert(at.path.clone());
        self.moved(dirs, &origin, at, &inside.entries);
        match beneath::stat_at(fd, entry.name) {
            Ok(meta) => Some(meta),
            Err(e) => {
                shared.trouble(problem::WRITE, &at.path, &e);
                None
            }
        }
    }

    /// Puts the file that is to be at `at`, where nothing is, there without asking for it. False: it has to be asked for.
    pub(super) fn move_file(&self, dirs: &Dirs, entry: &Entry<'_>, at: &At<'_>) -> bool {
        let shared = self.shared;
        let Some(fd) = at.fd.filter(|_| at.meta.is_none()) else {
            return false;
        };
        let Some(origin) = shared.origin(entry).filter(|o| self.is_file(entry, at, o)) else {
            return false;
        };
        let differs = self.attributes(entry, &origin.meta);
        let alone = origin.meta.links == 1 && shared.may_delete(1);
        if shared.options.dry_run {
            shared
                .renamed
                .fetch_add(u64::from(shared.deletes() && alone), Ordering::Release);
            return false;
        }
        let renamed = shared.deletes() && alone && {
            let set = self.set_attributes(&origin.fd, origin.name, entry, differs);
            set.and_then(|()| shared.rename(&origin, fd, entry.name)).is_ok()
        };
        if renamed {
            shared.renamed.fetch_add(1, Ordering::Release);
            self.moved(dirs, &origin, at, &[(origin.path.to_vec(), false)]);
        } else if self.copy(&origin, fd, entry).is_ok() {
            dirs.touch(at.dir);
            shared.restructured(split(&at.path).0);
            add(&shared.counters.moved, 1);
        } else {
            return false;
        }
        add(&shared.counters.created, 1);
        self.item(shared.options.arrow, &at.path, entry, true, Differs::default());
        true
    }

    /// Whether what is at `origin` is the file that `entry` is.
    fn is_file(&self, entry: &Entry<'_>, at: &At<'_>, origin: &Origin<'_>) -> bool {
        let meta = &origin.meta;
        let stored = (meta.mtime_s, meta.mtime_ns);
        let listed = (entry.mtime_s, entry.mtime_ns);
        let alike = meta.size == entry.size && self.shared.same_time(listed, stored);
        let there = || At {
            fd: Some(&*origin.fd),
            path: origin.path.to_vec(),
            meta: Some(*meta),
            ..*at
        };
        let old = Entry {
            name: origin.name,
            ..*entry
        };
        alike
            && !conflict::is_theirs(self.shared, origin.path)
            && (!self.shared.options.hashes || self.same_content(&old, &there()))
    }

    /// Makes a file of its own with the content of the one at `origin`.
    fn copy(&self, origin: &Origin<'_>, fd: &OwnedFd, entry: &Entry<'_>) -> io::Result<()> {
        let shared = self.shared;
        let (file, meta) = beneath::open_read_at(&*origin.fd, origin.name)?;
        if meta != origin.meta || holes::may_have(&file, meta.size) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let temp = shared.namer.name(Kind::Temp, entry.name);
        let made = shared.in_dir(fd, || beneath::create_at(fd, &temp))?;
        let fill = || {
            copy_file(&file, &made, meta.size, || shared.stopped())?;
            if beneath::stat(&file)? != meta {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let (uid, gid) = shared.owners(entry.uid, entry.gid);
            if uid.is_some() || gid.is_some() {
                shared.forgive(beneath::chown(&made, uid, gid))?;
            }
            beneath::chmod(&made, entry.mode)?;
            beneath::set_mtime(&made, entry.mtime_s, entry.mtime_ns)?;
            beneath::rename_new_at(fd, &temp, entry.name)
        };
        fill().inspect_err(|_| {
            let _ = beneath::unlink_at(fd, &temp);
        })
    }

    /// What was at `origin` is at `at`; to whoever watches, so many entries went, and came anew.
    fn moved(&self, dirs: &Dirs, origin: &Origin<'_>, at: &At<'_>, entries: &[(Vec<u8>, bool)]) {
        let shared = self.shared;
        let (dir, name) = split(origin.path);
        tell_gone(shared, dir, &[name]);
        shared.restructured(dir);
        dirs.touch(at.dir);
        if let Some(number) = dirs.find(dir) {
            dirs.touch(number);
        }
        let count = entries.len() as u64;
        shared.replaced.fetch_add(count, Ordering::Release);
        add(&shared.counters.moved, count);
        add(&shared.counters.deleted, count);
        if shared.options.itemize {
            for (path, directory) in entries.iter().rev() {
                shared.out.item(&itemize::deleting(path, *directory));
            }
        }
    }
}
