//! The generator's decisions about files with several names: which of them leads, which are linked to what it has.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::compare::{Found, Generator, Step};
use super::dirs::Dirs;
use super::entries::At;
use super::groups::{self, Follower, Group, Inode, Name, Owner};
use super::itemize::Differs;
use super::state::Place;
use crate::beneath::{self, Meta, lock, split};
use crate::list::{self, Chunk, Entry, REGULAR, SYMLINK};
use crate::piece::PIECE;
use crate::temp;

/// A name of a group in the chunk that is compared.
pub struct Member {
    i: u32,
    group: u32,
    dir: u32,
    name: Name,
    meta: Option<Meta>,
    partial: Option<Vec<u8>>,
    named: bool,
}

/// For each group and inode, how many of the chunk's names have it.
type Sharing = HashMap<(u32, Inode), u64>;

impl Generator<'_> {
    /// Checks the groups that a chunk's entries are said to be of. The entries that are not the first of theirs.
    pub(super) fn other_names(&self, chunk: &Chunk) -> Step<Vec<u32>> {
        let mut others = Vec::new();
        if chunk.links().is_empty() {
            return Ok(others);
        }
        if !self.shared.options.hard_links || chunk.flags() & list::SINGLE != 0 {
            return self.violation("hard links that were not asked for");
        }
        let mut groups = lock(&self.shared.linked);
        for &(i, group) in chunk.links() {
            let kind = chunk.entry(i).kind;
            match groups.kinds.get(group as usize) {
                Some(&first) if first == kind => others.push(i),
                None if group as usize == groups.kinds.len() => {
                    groups.kinds.push(kind);
                    groups.list.push(Group::Open);
                }
                _ => return self.violation("a hard link that does not fit its group"),
            }
        }
        Ok(others)
    }

    /// Remembers a name of a group until all of the chunk are known.
    pub(super) fn member(
        &self,
        dirs: &mut Dirs,
        i: u32,
        entry: &Entry<'_>,
        at: &At<'_>,
        group: u32,
        found: &mut Found,
    ) {
        // In a directory that is not read it is looked for when it is wanted.
        let partial = match at.named {
            true => None,
            false => self.partial(dirs, entry, at),
        };
        let dir = match found.members.last() {
            Some(last) if last.dir == at.dir => Arc::clone(&last.name.dir),
            _ => Arc::from(split(&at.path).0),
        };
        let name = entry.name.into();
        found.members.push(Member {
            i,
            group,
            dir: at.dir,
            name: Name { dir, name },
            meta: at.meta,
            partial,
            named: at.named,
        });
    }

    /// The partial that was found of an entry that is large enough to have one.
    pub(super) fn partial(&self, dirs: &mut Dirs, entry: &Entry<'_>, at: &At<'_>) -> Option<Vec<u8>> {
        if entry.kind != REGULAR || entry.size <= PIECE as u64 {
            return None;
        }
        if at.named {
            return self.search(dirs, entry, at);
        }
        dirs.list[at.dir as usize].partials.remove(temp::stem(entry.name))
    }

    /// Whether a file with one name in the list may stay as it is. Where it has other names here, those are someone
    /// else's: nothing is changed through it.
    pub(super) fn stays(&self, meta: &Meta, differs: Differs) -> bool {
        if !self.shared.options.hard_links || meta.links == 1 {
            return true;
        }
        !differs.any() && lock(&self.shared.linked).claim(meta.id, Owner::Alone)
    }

    /// All names of groups in chunk `n` are known; `others` are not the first of theirs.
    pub(super) fn linked(&self, dirs: &mut Dirs, n: u32, chunk: &Chunk, others: &[u32], found: &mut Found) -> Step<()> {
        let mut members = std::mem::take(&mut found.members);
        let mut sharing = Sharing::new();
        // Of names that cannot stay the one leads whose old content may be a basis for the new one.
        let mut best: HashMap<u32, (bool, u32)> = HashMap::new();
        for member in &members {
            let meta = member.meta.filter(|m| m.kind == REGULAR && !self.shared.wants_all);
            if let Some(meta) = member.meta {
                *sharing.entry((member.group, meta.id)).or_default() += 1;
            }
            let leads = best.entry(member.group).or_insert((meta.is_some(), member.i));
            if meta.is_some() && !leads.0 {
                *leads = (true, member.i);
            }
        }
        if !self.shared.wants_all {
            for member in &members {
                self.keep(chunk, member, &sharing);
            }
        }
        let (first, rest): (Vec<_>, Vec<_>) = members
            .drain(..)
            .partition(|m| best.get(&m.group).is_some_and(|leads| leads.1 == m.i));
        for member in first.into_iter().chain(rest) {
            if self.shared.stopped() {
                return Err(super::compare::Stop);
            }
            self.decide(dirs, n, chunk, member, others, found);
        }
        if self.shared.wants_all {
            let wanted: std::collections::HashSet<u32> = found.wanted.iter().map(|w| w.0).collect();
            for &(i, _) in chunk.links() {
                if others.binary_search(&i).is_err() && chunk.entry(i).kind == REGULAR && !wanted.contains(&i) {
                    found.wanted.push((i, Place::Nowhere));
                }
            }
        }
        Ok(())
    }

    fn handle(&self, member: &Member) -> Option<Arc<OwnedFd>> {
        self.shared.handles().and_then(|h| h.dir(&member.name.dir)).ok()
    }

    fn at<'b>(member: &Member, fd: Option<&'b OwnedFd>) -> At<'b> {
        At {
            dir: member.dir,
            fd,
            named: member.named,
            moved: false,
            path: member.name.path(),
            link: Some(member.group),
            meta: member.meta,
        }
    }

    /// A name that is up to date leads its group, where none does so far.
    fn keep(&self, chunk: &Chunk, member: &Member, sharing: &Sharing) {
        let entry = chunk.entry(member.i);
        let Some(meta) = member.meta.filter(|m| m.kind == entry.kind) else {
            return;
        };
        if !matches!(lock(&self.shared.linked).list[member.group as usize], Group::Open) {
            return;
        }
        let fd = self.handle(member);
        let at = Self::at(member, fd.as_deref());
        let differs = self.compared(&entry, &at, &meta);
        if !self.is_same(&entry, differs) {
            return;
        }
        // What is changed through it must be of this group alone.
        if differs.any() && meta.links > sharing.get(&(member.group, meta.id)).copied().unwrap_or(0) {
            return;
        }
        let mut groups = lock(&self.shared.linked);
        if meta.links > 1 && !groups.claim(meta.id, Owner::Group(member.group)) {
            return;
        }
        groups.list[member.group as usize] = Group::There(Arc::new(member.name.clone()), Some(meta.id));
        drop(groups);
        self.adjust(&entry, &at, differs);
    }

    fn decide(&self, dirs: &mut Dirs, n: u32, chunk: &Chunk, member: Member, others: &[u32], found: &mut Found) {
        let shared = self.shared;
        let entry = chunk.entry(member.i);
        let fd = self.handle(&member);
        let at = Self::at(&member, fd.as_deref());
        let leader = match &lock(&shared.linked).list[member.group as usize] {
            Group::There(_, Some(inode)) if member.meta.is_some_and(|m| m.id == *inode) => return,
            Group::There(name, _) => Some(Some(Arc::clone(name))),
            Group::Coming(..) => Some(None),
            Group::Open => None,
        };
        if let (Some(temp), Some(fd), Some(_)) = (&member.partial, &fd, &leader) {
            // It waits for no content of its own any more.
            let _ = shared.in_dir(fd, || beneath::unlink_at(&**fd, temp));
            dirs.touch(member.dir);
        }
        let Some(leader) = leader else {
            return self.lead(dirs, n, &entry, member, &at, others, found);
        };
        let Some(place) = self.place(&at, entry.name) else {
            return;
        };
        let follower = Follower {
            group: member.group,
            at: (n, member.i),
            name: member.name,
            place,
            new: member.meta.is_none(),
            // As rsync has it, also from what is of another type.
            differs: member.meta.map_or_else(Differs::default, |meta| {
                let mut differs = self.attributes(&entry, &meta);
                differs.size = entry.kind == REGULAR && meta.size != entry.size;
                differs.mode &= entry.kind == REGULAR;
                differs
            }),
        };
        match leader {
            Some(leader) if shared.options.dry_run => groups::linked(shared, &follower, &entry, &leader),
            Some(leader) if entry.kind == SYMLINK => {
                dirs.touch(at.dir);
                match groups::link(shared, &leader, &follower) {
                    Ok(()) => groups::linked(shared, &follower, &entry, &leader),
                    // Where it cannot be linked, it is a symlink of its own.
                    Err(_) => self.symlink(dirs, &entry, &at, at.meta),
                }
            }
            _ => {
                found.followers.push(follower);
            }
        }
    }

    /// The first name of its group that can be brought up to date.
    #[allow(clippy::too_many_arguments, reason = "one step of `decide`")]
    fn lead(
        &self,
        dirs: &mut Dirs,
        n: u32,
        entry: &Entry<'_>,
        member: Member,
        at: &At<'_>,
        others: &[u32],
        found: &mut Found,
    ) {
        let shared = self.shared;
        let there = |inode| {
            lock(&shared.linked).list[member.group as usize] = Group::There(Arc::new(member.name.clone()), inode);
        };
        if entry.kind == SYMLINK {
            self.symlink(dirs, entry, at, member.meta);
            if shared.options.dry_run {
                return there(None);
            }
            let made = at.fd.and_then(|fd| beneath::stat_at(fd, entry.name).ok());
            if let Some(made) = made.filter(|m| m.kind == SYMLINK) {
                there(Some(made.id));
            }
            return;
        }
        let differs = match member.meta.filter(|m| m.kind == REGULAR) {
            Some(meta) => self.compared(entry, at, &meta),
            None => Differs::default(),
        };
        let partial = member.partial.or_else(|| self.partial(dirs, entry, at));
        if !self.want(member.i, entry, at, differs, partial, found) {
            return;
        }
        if shared.options.dry_run {
            return there(None);
        }
        if shared.wants_all && others.binary_search(&member.i).is_ok() {
            found.again.push(member.i);
        }
        lock(&shared.linked).list[member.group as usize] = Group::Coming((n, member.i), member.name, Vec::new());
    }
}
