//! An existing directory at the destination: its names before its entries are compared, what is left of them after.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use super::compare::Generator;
use super::dirs::{Dir, Here};
use super::problem;
use crate::beneath::{self, lock, split};
use crate::temp::{self, Kind, TRASH};

impl Generator<'_> {
    /// Reads the names of an existing directory.
    pub(super) fn enter(&self, dir: &mut Dir) {
        let mut read = || -> io::Result<()> {
            let fd = self.reach(dir)?;
            dir.unlisted.clear();
            beneath::each_name(&fd, |name| {
                dir.occupied = true;
                if name != TRASH {
                    dir.unlisted.insert(name.into());
                }
            })?;
            self.our_names(dir, &fd);
            Ok(())
        };
        if let Err(e) = read() {
            dir.here = Here::Blocked;
            dir.complete = false;
            self.shared.trouble(problem::WRITE, &dir.path, &e);
        }
    }

    /// Opens an existing directory, making it accessible when it is not and we may.
    pub(super) fn reach(&self, dir: &Dir) -> io::Result<OwnedFd> {
        let shared = self.shared;
        let open = || shared.handles()?.own(&dir.path);
        let fd = match open() {
            Err(e)
                if e.raw_os_error() == Some(libc::EACCES)
                    && !shared.options.dry_run
                    && !dir.path.is_empty()
                    && self.open_up(&dir.path).is_ok() =>
            {
                dir.touched.store(true, Ordering::Release);
                open()?
            }
            opened => opened?,
        };
        // A directory that can be read but not searched shows names and nothing else.
        let mode = beneath::stat(&fd)?.mode;
        if mode & 0o100 == 0 && !shared.privileged && !shared.options.dry_run && shared.open_up(&fd).is_ok() {
            dir.touched.store(true, Ordering::Release);
        }
        Ok(fd)
    }

    /// Gives the owner access to a directory; its mode is set again at the end.
    fn open_up(&self, path: &[u8]) -> io::Result<()> {
        let (parent, name) = split(path);
        let handles = self.shared.handles()?;
        let parent = handles.dir(parent)?;
        let meta = beneath::stat_at(&*parent, name)?;
        beneath::chmod_at(&*parent, name, meta.mode | 0o700)
    }

    /// Takes agents' own files out of the names: other agents' are left alone, our partials are kept for their files,
    /// and what a session that was killed had moved aside is put back.
    fn our_names(&self, dir: &mut Dir, fd: &OwnedFd) {
        let shared = self.shared;
        let ours: Vec<Box<[u8]>> = dir
            .unlisted
            .iter()
            .filter(|n| temp::parse(n).is_some())
            .cloned()
            .collect();
        for name in ours {
            // What this session itself has made, or goes on with, is in use.
            if shared.options.partial && (shared.namer.made(&name) || lock(&shared.taken).contains(&*name)) {
                dir.unlisted.remove(&name);
                continue;
            }
            match shared.namer.own_in(fd, &name) {
                None => {
                    dir.unlisted.remove(&name);
                }
                // The parent of a single file may be another session's root: only that file's are touched there.
                Some((_, stem)) if shared.single.get().is_some_and(|single| temp::stem(single) != stem) => {}
                Some((Kind::Temp, stem)) => {
                    dir.unlisted.remove(&name);
                    if !shared.options.dry_run
                        && let Some(older) = dir.partials.insert(stem.into(), name.to_vec())
                    {
                        let _ = shared.in_dir(fd, || beneath::unlink_at(fd, &older));
                        dir.touched.store(true, Ordering::Release);
                    }
                }
                Some((Kind::Fresh, _)) => {
                    dir.unlisted.remove(&name);
                    if !shared.options.dry_run && shared.in_dir(fd, || beneath::remove_flat_at(fd, &name)).is_ok() {
                        dir.touched.store(true, Ordering::Release);
                    }
                }
                Some((Kind::Aside, stem)) => {
                    if !shared.options.dry_run && shared.in_dir(fd, || beneath::rename_new_at(fd, &name, stem)).is_ok()
                    {
                        dir.touched.store(true, Ordering::Release);
                        dir.unlisted.remove(&name);
                        dir.unlisted.insert(stem.into());
                    }
                }
            }
        }
    }

    /// The last part of a directory came: partials that fit nothing go; what was not listed is extra.
    pub(super) fn close(&self, dir: &mut Dir, fd: Option<&OwnedFd>) {
        dir.listed = HashSet::new();
        if let Some(fd) = fd {
            for temp in dir.partials.values() {
                let _ = self.shared.in_dir(fd, || beneath::unlink_at(fd, temp));
                dir.touched.store(true, Ordering::Release);
            }
        }
        dir.partials = HashMap::new();
        if !self.shared.options.delete || self.shared.single.get().is_some() {
            dir.unlisted = HashSet::new();
        }
    }
}
