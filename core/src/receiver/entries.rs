//! The generator's decisions: what an entry of the list means for what is in its place.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::aliases::Aliases;
use super::compare::{Found, Generator, Step};
use super::conflict::{self, Verdict};
use super::dirs::{Dir, Dirs, Here};
use super::fresh::{self, Fresh};
use super::itemize::{self, Differs};
use super::outbox::add;
use super::state::{Place, Seen};
use super::survey::survey;
use super::{Aside, Before, problem};
use crate::beneath::{self, Meta, hash_file, lock, split};
use crate::list::{Chunk, DIRECTORY, Entry, GONE, Group, OTHER, REGULAR, SYMLINK, UNREADABLE};
use crate::profile::Stage;
use crate::temp::{self, Kind};

/// Where an entry is at the destination.
pub struct At<'a> {
    /// Its directory's number.
    pub dir: u32,
    /// Its directory's handle; None when there is none (dry run).
    pub fd: Option<&'a OwnedFd>,
    /// It is listed by its name, without the rest of its directory.
    pub named: bool,
    /// It is in a directory that this session renamed.
    pub moved: bool,
    /// Its path below the root.
    pub path: Vec<u8>,
    /// The group of names that it is of.
    pub link: Option<u32>,
    /// What stands there.
    pub meta: Option<Meta>,
}

impl Generator<'_> {
    /// The root's own entry, in a group of single names or before its listing.
    pub(super) fn root_entry(&self, dirs: &mut Dirs, entry: &Entry<'_>, named: bool) -> Step<()> {
        let shared = self.shared;
        if entry.kind != DIRECTORY {
            return self.violation("a root of the wrong kind");
        }
        let absent = matches!(shared.before, Before::Missing(..));
        let missing = absent && dirs.find(b"").is_none();
        let here = match (absent, shared.options.dry_run) {
            (true, true) => Here::Absent,
            (true, false) if missing => Here::New,
            _ => Here::Existing,
        };
        let mut differs = Differs::default();
        if let (Here::Existing, Ok(handles)) = (here, shared.handles())
            && let Ok(meta) = beneath::stat(handles.root().fd())
        {
            differs = self.attributes(entry, &meta);
        }
        if missing {
            add(&shared.counters.dirs, 1);
        }
        if missing || differs.any() {
            self.item(if missing { b'c' } else { b'.' }, b"", entry, missing, differs);
        }
        self.listed(dirs, b"", entry, here, differs.any(), named)?;
        Ok(())
    }

    /// Adds a directory, or what is said of it once more.
    fn listed(
        &self,
        dirs: &mut Dirs,
        path: &[u8],
        entry: &Entry<'_>,
        here: Here,
        differs: bool,
        named: bool,
    ) -> Step<u32> {
        if !self.shared.options.partial && dirs.find(path).is_some() {
            return self.violation("a directory that is listed twice");
        }
        let listing = !named || entry.size == 1;
        let number = dirs.add(path, entry, here, differs, listing);
        number.map_or_else(
            || self.violation("a directory that is listed again while its listing comes"),
            Ok,
        )
    }

    pub(super) fn entry(
        &self,
        dirs: &mut Dirs,
        i: u32,
        entry: &Entry<'_>,
        at: &mut At<'_>,
        aliases: &mut Aliases<'_>,
        found: &mut Found,
    ) -> Step<()> {
        let shared = self.shared;
        if (entry.kind == DIRECTORY || at.named) && dirs.bloated() {
            return self.violation("directories too deep to hold");
        }
        if entry.name.is_empty() {
            return self.violation("a root where none can be");
        }
        if shared.single.get().is_none() {
            // No sender lists these. An entry that a filter protects here is not the peer's to write either.
            let filter = &shared.options.filter;
            let excluded = !filter.is_empty() && filter.excludes(&at.path, entry.kind == DIRECTORY);
            if excluded || temp::is_private(entry.name) {
                return self.violation("an entry that was to be left out");
            }
        }
        let dir = &mut dirs.list[at.dir as usize];
        let shown = dir.unlisted.remove(entry.name);
        if dir.here == Here::Blocked {
            if entry.kind == DIRECTORY {
                self.listed(dirs, &at.path, entry, Here::Blocked, false, at.named)?;
            }
            return Ok(());
        }
        at.meta = match at.fd {
            Some(fd) if shown || at.named || dir.occupied => match beneath::stat_at(fd, entry.name) {
                Ok(meta) => Some(meta),
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => None,
                Err(e) => {
                    shared.trouble(problem::WRITE, &at.path, &e);
                    return Ok(());
                }
            },
            _ => None,
        };
        if !shown && at.meta.is_some() && !self.alias(dirs, i, entry, at, aliases) {
            if entry.kind == DIRECTORY {
                self.listed(dirs, &at.path, entry, Here::Blocked, false, at.named)?;
            }
            return Ok(());
        }
        if matches!(entry.kind, REGULAR | SYMLINK) && shared.options.partial {
            dirs.retract(&at.path);
        }
        if let Some(group) = at.link {
            self.member(dirs, i, entry, at, group, found);
            return Ok(());
        }
        match entry.kind {
            DIRECTORY => self.directory(dirs, entry, at, at.meta),
            REGULAR => {
                self.regular(dirs, i, entry, at, found);
                Ok(())
            }
            SYMLINK => {
                self.symlink(dirs, entry, at, at.meta);
                Ok(())
            }
            GONE => {
                self.gone(dirs, entry, at);
                Ok(())
            }
            OTHER => {
                add(&shared.counters.skipped, 1);
                Ok(())
            }
            _ => {
                debug_assert_eq!(entry.kind, UNREADABLE);
                self.distrust(&at.path, true);
                shared
                    .out
                    .problem(&shared.counters, problem::UNREADABLE, libc::EACCES, &at.path);
                Ok(())
            }
        }
    }

    fn directory(&self, dirs: &mut Dirs, entry: &Entry<'_>, at: &At<'_>, meta: Option<Meta>) -> Step<()> {
        let shared = self.shared;
        let renamed = self.move_dir(dirs, entry, at);
        let existing = renamed.or(meta.filter(|m| m.kind == DIRECTORY));
        let moved = existing.is_some() && (at.moved || renamed.is_some());
        let (here, differs) = match existing {
            Some(meta) => {
                let differs = self.attributes(entry, &meta);
                if moved {
                    self.item(b'c', &at.path, entry, true, Differs::default());
                } else if differs.any() {
                    self.item(b'.', &at.path, entry, false, differs);
                }
                (Here::Existing, differs.any())
            }
            None => {
                let verdict = self.conflict(at);
                let here = match at.fd {
                    _ if verdict == Verdict::Leave => Here::Blocked,
                    Some(fd) if !shared.options.dry_run => match self.clear(fd, entry.name, at, meta, verdict) {
                        Ok(()) => Here::New,
                        Err(e) => {
                            shared.trouble(problem::WRITE, &at.path, &e);
                            Here::Blocked
                        }
                    },
                    _ => {
                        let replaced = u64::from(meta.is_some() && verdict == Verdict::Go);
                        add(&shared.counters.deleted, replaced);
                        shared.replaced.fetch_add(replaced, Ordering::Release);
                        Here::Absent
                    }
                };
                let due = dirs.find(&at.path).is_some_and(|n| dirs.list[n as usize].due);
                dirs.touch(at.dir);
                if here != Here::Blocked && !due {
                    add(&shared.counters.dirs, 1);
                    self.item(b'c', &at.path, entry, true, Differs::default());
                }
                (here, false)
            }
        };
        let number = self.listed(dirs, &at.path, entry, here, differs, at.named)?;
        let dir = &mut dirs.list[number as usize];
        (dir.due, dir.moved) = (here == Here::New, moved);
        Ok(())
    }

    /// Makes a directory whose time has come: in its place, unless it is one to fill before it has its name.
    pub(super) fn make(&self, dir: &mut Dir, number: u32, chunk: &Chunk, group: &Group) -> Option<Arc<Fresh>> {
        let shared = self.shared;
        dir.due = false;
        if fresh::suits(chunk, group) {
            let files = (group.start..group.start + group.entries).filter(|&i| chunk.entry(i).kind == REGULAR);
            return Some(Arc::new(Fresh::new(shared, &dir.path, number, files.count() as u64)));
        }
        self.make_in_place(dir);
        None
    }

    pub(super) fn make_in_place(&self, dir: &mut Dir) {
        let shared = self.shared;
        dir.due = false;
        let (parent, name) = split(&dir.path);
        let made = shared.handles().and_then(|h| h.dir(parent)).and_then(|fd| {
            shared.in_dir(&fd, || beneath::mkdir_at(&*fd, name))?;
            shared.durable.restructured(&fd)
        });
        if let Err(e) = made {
            dir.here = Here::Blocked;
            shared.trouble(problem::WRITE, &dir.path, &e);
        }
    }

    /// Moves aside what is in a directory's way: until the session finishes, or for good under a name of its own.
    fn clear(&self, fd: &OwnedFd, name: &[u8], at: &At<'_>, meta: Option<Meta>, verdict: Verdict) -> io::Result<()> {
        if meta.is_none() {
            return Ok(());
        }
        let shared = self.shared;
        if verdict == Verdict::Keep {
            return shared.in_dir(fd, || conflict::move_away(fd, name));
        }
        let aside = shared.namer.name(Kind::Aside, name);
        shared.in_dir(fd, || beneath::rename_new_at(fd, name, &aside))?;
        let dir = split(&at.path).0.to_vec();
        let name = name.to_vec();
        lock(&shared.asides).push(Aside { dir, name, aside });
        shared.replaced.fetch_add(1, Ordering::Release);
        Ok(())
    }

    fn regular(&self, dirs: &mut Dirs, i: u32, entry: &Entry<'_>, at: &At<'_>, found: &mut Found) {
        let mut differs = Differs::default();
        if let Some(meta) = at.meta.filter(|m| m.kind == REGULAR) {
            differs = self.compared(entry, at, &meta);
            if self.is_same(entry, differs) && self.stays(&meta, differs) {
                return self.adjust(entry, at, differs);
            }
        }
        if self.move_file(dirs, entry, at) {
            return;
        }
        let partial = self.partial(dirs, entry, at);
        self.want(i, entry, at, differs, partial, found);
    }

    /// What differs between an entry and what is there, which is of its type; content only where that was asked for.
    pub(super) fn compared(&self, entry: &Entry<'_>, at: &At<'_>, meta: &Meta) -> Differs {
        let mut differs = self.attributes(entry, meta);
        if entry.kind == SYMLINK {
            differs.mode = false; // Linux has no modes of symlinks
            let target = at.fd.and_then(|fd| beneath::read_link_at(fd, entry.name).ok());
            differs.content = target.as_deref() != Some(entry.target);
        } else {
            differs.size = meta.size != entry.size;
            if self.shared.options.hashes {
                differs.content = differs.size || !self.same_content(entry, at);
            }
        }
        differs
    }

    /// Whether what so differs needs no new content.
    pub(super) fn is_same(&self, entry: &Entry<'_>, differs: Differs) -> bool {
        if entry.kind == SYMLINK || self.shared.options.hashes {
            !differs.content
        } else {
            !differs.size && !differs.time
        }
    }

    /// Asks for a file's content. False when a directory is in its way, which was reported.
    pub(super) fn want(
        &self,
        i: u32,
        entry: &Entry<'_>,
        at: &At<'_>,
        differs: Differs,
        partial: Option<Vec<u8>>,
        found: &mut Found,
    ) -> bool {
        let shared = self.shared;
        let Some(place) = self.place(at, entry.name) else {
            return false;
        };
        let old = at.meta.filter(|m| m.kind == REGULAR);
        let new = old.is_none() || at.moved;
        self.item(shared.options.arrow, &at.path, entry, new, differs);
        if shared.options.dry_run {
            add(&shared.counters.wanted_files, 1);
            add(&shared.counters.wanted_bytes, entry.size);
            return true;
        }
        found.wanted.push((i, place));
        let old = old.or_else(|| shared.origin(entry).filter(|_| place == Place::Absent).map(|o| o.meta));
        if partial.is_some() {
            found.basis.push((i, partial));
        } else if old.is_some_and(|m| m.size >= shared.options.delta_min) && entry.size >= shared.options.delta_min {
            found.basis.push((i, None));
        }
        true
    }

    /// Sets what differs of an up-to-date file, directory excepted, without touching its content.
    pub(super) fn adjust(&self, entry: &Entry<'_>, at: &At<'_>, differs: Differs) {
        if at.moved {
            let update = if entry.kind == REGULAR {
                self.shared.options.arrow
            } else {
                b'c'
            };
            self.item(update, &at.path, entry, true, differs);
        }
        if !differs.any() || self.conflict(at) == Verdict::Leave {
            return;
        }
        if !at.moved {
            self.item(b'.', &at.path, entry, false, differs);
        }
        let (Some(fd), false) = (at.fd, self.shared.options.dry_run) else {
            return;
        };
        add(&self.shared.counters.meta, 1);
        let set = self.set_attributes(fd, entry.name, entry, differs);
        if let Err(e) = set.and_then(|()| self.shared.adjusted(split(&at.path).0, entry)) {
            self.shared.trouble(problem::METADATA, &at.path, &e);
        }
    }

    /// Gives what is named `name` in `fd` those of the entry's attributes that differ.
    pub(super) fn set_attributes(
        &self,
        fd: &OwnedFd,
        name: &[u8],
        entry: &Entry<'_>,
        differs: Differs,
    ) -> io::Result<()> {
        if differs.owner || differs.group {
            let (uid, gid) = self.shared.owners(entry.uid, entry.gid);
            self.shared.forgive(beneath::chown_at(fd, name, uid, gid))?;
        }
        if entry.kind != SYMLINK && (differs.mode || differs.owner || differs.group) {
            beneath::chmod_at(fd, name, entry.mode)?;
        }
        if differs.time {
            beneath::set_mtime_at(fd, name, entry.mtime_s, entry.mtime_ns)?;
        }
        Ok(())
    }

    /// What something new that is no directory finds at `at`. None when that has to stay, which was told.
    pub(super) fn place(&self, at: &At<'_>, name: &[u8]) -> Option<Place> {
        match at.meta {
            None => Some(Place::Absent),
            Some(meta) if meta.kind == DIRECTORY => match self.replaceable(at, name) {
                Ok(()) => Some(Place::Directory),
                Err(e) => {
                    self.shared.trouble(problem::IN_THE_WAY, &at.path, &e);
                    None
                }
            },
            Some(meta) => match self.conflict(at) {
                Verdict::Go => Some(Place::File(Seen::new(&meta))),
                Verdict::Keep => Some(Place::Kept),
                Verdict::Leave => None,
            },
        }
    }

    /// Whether the directory at `at` may make room for something else: it is empty, or deletion was asked for and
    /// nothing in it is protected by a filter, or is someone else's change.
    fn replaceable(&self, at: &At<'_>, name: &[u8]) -> io::Result<()> {
        let Some(fd) = at.fd else { return Ok(()) };
        let shared = self.shared;
        let inside = survey(shared, fd, name, &at.path)?;
        let empty = inside.entries.len() == 1;
        if inside.protected || !(empty || shared.deletes()) || !self.may_go(at, &inside.entries) {
            return Err(io::Error::from_raw_os_error(libc::ENOTEMPTY));
        }
        shared
            .replaced
            .fetch_add(inside.entries.len() as u64, Ordering::Release);
        if shared.options.dry_run && shared.deletes() {
            add(&shared.counters.deleted, inside.entries.len() as u64);
            for (path, directory) in &inside.entries[1..] {
                if shared.options.itemize {
                    shared.out.item(&itemize::deleting(path, *directory));
                }
            }
        }
        Ok(())
    }

    /// What differs between an entry's attributes and what is there; size and content excepted.
    pub(super) fn attributes(&self, entry: &Entry<'_>, meta: &Meta) -> Differs {
        let options = &self.shared.options;
        Differs {
            time: !self
                .shared
                .same_time((entry.mtime_s, entry.mtime_ns), (meta.mtime_s, meta.mtime_ns)),
            mode: entry.mode != meta.mode,
            owner: options.owner && self.shared.privileged && entry.uid != meta.uid,
            group: self
                .shared
                .owners(entry.uid, entry.gid)
                .1
                .is_some_and(|gid| gid != meta.gid),
            ..Differs::default()
        }
    }

    pub(super) fn same_content(&self, entry: &Entry<'_>, at: &At<'_>) -> bool {
        let Some(fd) = at.fd else { return false };
        let hash = || -> io::Result<[u8; 32]> {
            let (file, meta) = beneath::open_read_at(fd, entry.name)?;
            if let Some(hash) = self.known_hash(at, entry.name, &meta) {
                return Ok(hash);
            }
            let content = || hash_file(&file, || self.shared.stopped());
            let hash = self.shared.profile.time(Stage::Hash, content)?;
            if beneath::stat(&file)? == meta {
                self.remember_hash(at, entry.name, &meta, hash);
            }
            Ok(hash)
        };
        hash().is_ok_and(|hash| hash == entry.hash)
    }

    pub(super) fn item(&self, update: u8, path: &[u8], entry: &Entry<'_>, new: bool, differs: Differs) {
        if self.shared.options.itemize {
            self.shared.out.item(&itemize::line(update, path, entry, new, differs));
        }
    }
}
