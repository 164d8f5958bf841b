//! Symlinks, which the generator makes itself.

use std::io;
use std::os::fd::OwnedFd;

use super::compare::Generator;
use super::dirs::Dirs;
use super::entries::At;
use super::itemize::Differs;
use super::outbox::add;
use super::problem;
use super::state::Place;
use crate::beneath::{self, Meta, split};
use crate::list::{Entry, SYMLINK};
use crate::temp::Kind;

impl Generator<'_> {
    pub(super) fn symlink(&self, dirs: &mut Dirs, entry: &Entry<'_>, at: &At<'_>, meta: Option<Meta>) {
        let shared = self.shared;
        let mut differs = Differs::default();
        if let Some(meta) = meta.filter(|m| m.kind == SYMLINK) {
            differs = self.compared(entry, at, &meta);
            if !differs.content && at.link.is_none() && self.stays(&meta, differs) {
                return self.adjust(entry, at, differs);
            }
        }
        let Some(place) = self.place(at, entry.name) else {
            return;
        };
        let new = meta.is_none_or(|m| m.kind != SYMLINK);
        self.item(b'c', &at.path, entry, new || at.moved, differs);
        add(&shared.counters.symlinks, 1);
        if let (Some(fd), false) = (at.fd, shared.options.dry_run) {
            dirs.touch(at.dir);
            if let Err(e) = self.make_symlink(fd, entry, at, place) {
                shared.trouble(problem::WRITE, &at.path, &e);
            }
        }
    }

    fn make_symlink(&self, fd: &OwnedFd, entry: &Entry<'_>, at: &At<'_>, place: Place) -> io::Result<()> {
        let shared = self.shared;
        // A new link is made in place: symlink(2) is atomic and never replaces.
        let temp = if place == Place::Absent {
            entry.name.to_vec()
        } else {
            shared.namer.name(Kind::Temp, entry.name)
        };
        shared.in_dir(fd, || beneath::symlink_at(entry.target, fd, &temp))?;
        let set = || {
            let (uid, gid) = shared.owners(entry.uid, entry.gid);
            if uid.is_some() || gid.is_some() {
                shared.forgive(beneath::chown_at(fd, &temp, uid, gid))?;
            }
            beneath::set_mtime_at(fd, &temp, entry.mtime_s, entry.mtime_ns)?;
            if place == Place::Absent {
                return Ok(());
            }
            shared.commit(fd, split(&at.path).0, &temp, entry.name, place)
        };
        let done = set();
        if done.is_err() && place != Place::Absent {
            let _ = beneath::unlink_at(fd, &temp);
        }
        done
    }
}
