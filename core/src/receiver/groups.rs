//! Files with several names: of each group one name leads, whose content comes; the others are linked to it.
//!
//! Only names that the list says have others are remembered here, and of each no more than where it goes.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::apply::settled;
use super::batch::{Named, Placed};
use super::itemize::{self, Differs};
use super::outbox::add;
use super::state::{Pending, Place};
use super::{Shared, problem};
use crate::beneath::{self, hash_file, join, lock};
use crate::list::{Entry, REGULAR};
use crate::signature;
use crate::temp::Kind;

/// Device and inode.
pub type Inode = (u64, u64);

/// A name at the destination.
#[derive(Clone)]
pub struct Name {
    /// Its directory's path, which names in a row share.
    pub dir: Arc<[u8]>,
    /// Itself.
    pub name: Box<[u8]>,
}

impl Name {
    /// Below the root.
    pub fn path(&self) -> Vec<u8> {
        join(&self.dir, &self.name)
    }
}

/// A name that is to be linked to what another one has.
pub struct Follower {
    /// Its group.
    pub group: u32,
    /// Its entry: chunk and index.
    pub at: (u32, u32),
    /// Where it goes.
    pub name: Name,
    /// What stood there.
    pub place: Place,
    /// Whether that was nothing.
    pub new: bool,
    /// How it differed.
    pub differs: Differs,
}

/// The names of one file.
pub enum Group {
    /// None that was listed so far can lead.
    Open,
    /// The content of this entry, which gets this name, is on its way.
    Coming((u32, u32), Name, Vec<Follower>),
    /// It is there under this name; without an inode in a dry run.
    There(Arc<Name>, Option<Inode>),
}

/// Whose an inode of the destination is that stays as it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// A file with one name in the list.
    Alone,
    /// A group.
    Group(u32),
}

/// All groups of one session.
#[derive(Default)]
pub struct Groups {
    /// By number.
    pub list: Vec<Group>,
    /// The type of their entries.
    pub kinds: Vec<u8>,
    owners: HashMap<Inode, Owner>,
}

impl Groups {
    /// Whether an inode with several names may stay what `owner` has. A name of another owner must get its own.
    pub fn claim(&mut self, inode: Inode, owner: Owner) -> bool {
        match self.owners.entry(inode) {
            Slot::Vacant(slot) => {
                slot.insert(owner);
                true
            }
            Slot::Occupied(slot) => owner != Owner::Alone && *slot.get() == owner,
        }
    }
}

/// Entry `i` took its place: those that wait for it are linked to it.
pub fn placed(shared: &Shared, pending: &Pending, i: u32) {
    let Some(group) = pending.chunk.link_of(i) else { return };
    let (dir, entry) = pending.entry(i);
    let inode = shared
        .handles()
        .and_then(|h| beneath::stat_at(&*h.dir(dir)?, entry.name))
        .ok()
        .map(|meta| meta.id);
    let mut groups = lock(&shared.linked);
    let slot = &mut groups.list[group as usize];
    if !leads(slot, pending, i) {
        return;
    }
    let Group::Coming(_, name, waiting) = std::mem::replace(slot, Group::Open) else {
        return;
    };
    *slot = Group::There(Arc::new(name), inode);
    drop(groups);
    shared.queue.waiting(-(waiting.len() as i64));
    link_all(shared, waiting);
}

/// Entry `i` was dealt with. When it was to lead and has not come, the next name of its group is sent instead.
pub fn settle(shared: &Shared, pending: &Pending, i: u32) {
    let Some(group) = pending.chunk.link_of(i) else { return };
    let mut groups = lock(&shared.linked);
    let slot = &mut groups.list[group as usize];
    if !leads(slot, pending, i) {
        return;
    }
    let Group::Coming(_, _, mut waiting) = std::mem::replace(slot, Group::Open) else {
        return;
    };
    if waiting.is_empty() {
        return;
    }
    if shared.full.load(Ordering::Acquire) {
        drop(groups);
        shared.queue.waiting(-(waiting.len() as i64));
        return give_up(shared, waiting, None);
    }
    let next = waiting.remove(0);
    shared.queue.waiting(-1);
    *slot = Group::Coming(next.at, next.name.clone(), waiting);
    drop(groups);
    ask(shared, &next);
}

/// Entry `i` cannot be read at the other end, under whatever name.
pub fn refused(shared: &Shared, pending: &Pending, i: u32, code: u8, errno: i32) {
    let Some(group) = pending.chunk.link_of(i) else { return };
    let mut groups = lock(&shared.linked);
    let slot = &mut groups.list[group as usize];
    if leads(slot, pending, i)
        && let Group::Coming(_, _, waiting) = std::mem::replace(slot, Group::Open)
    {
        drop(groups);
        shared.queue.waiting(-(waiting.len() as i64));
        give_up(shared, waiting, Some((code, errno)));
    }
}

fn leads(group: &Group, pending: &Pending, i: u32) -> bool {
    matches!(group, Group::Coming(leader, ..) if *leader == (pending.n, i))
}

fn pending_of(shared: &Shared, follower: &Follower) -> Option<Arc<Pending>> {
    lock(&shared.pending).get(&follower.at.0).cloned()
}

/// Names that will not come, and why where that was not said.
fn give_up(shared: &Shared, followers: Vec<Follower>, why: Option<(u8, i32)>) {
    for follower in followers {
        if let Some((code, errno)) = why {
            let path = follower.name.path();
            shared.out.problem(&shared.counters, code, errno, &path);
        }
        if let Some(pending) = pending_of(shared, &follower) {
            settled(shared, &pending, follower.at.1);
        }
    }
}

/// Asks for the content of a name that was to be linked.
fn ask(shared: &Shared, follower: &Follower) {
    let Some(pending) = pending_of(shared, follower) else {
        return;
    };
    let i = follower.at.1;
    pending.want(i, follower.place);
    add(&shared.counters.wanted_files, 1);
    add(&shared.counters.wanted_bytes, pending.chunk.entry(i).size);
    say(shared, follower.at);
}

/// Tells the sender that entry `at` is wanted after all.
pub fn say(shared: &Shared, at: (u32, u32)) {
    let mut payload = Vec::new();
    signature::encode_nothing(at, &mut payload);
    shared.out.event(("basis", 0, Some(payload)));
}

/// Links names to what their groups have.
pub fn link_all(shared: &Shared, followers: Vec<Follower>) {
    for follower in followers {
        if shared.stopped() {
            return;
        }
        let mut groups = lock(&shared.linked);
        let slot = &mut groups.list[follower.group as usize];
        let leader = match slot {
            Group::There(name, _) => Arc::clone(name),
            Group::Coming(_, _, waiting) => {
                waiting.push(follower);
                shared.queue.waiting(1);
                continue;
            }
            Group::Open => {
                *slot = Group::Coming(follower.at, follower.name.clone(), Vec::new());
                drop(groups);
                ask(shared, &follower);
                continue;
            }
        };
        drop(groups);
        let Some(pending) = pending_of(shared, &follower) else {
            continue;
        };
        let (_, entry) = pending.entry(follower.at.1);
        match link(shared, &leader, &follower) {
            Ok(()) => {
                pending.touch(follower.at.1);
                linked(shared, &follower, &entry, &leader);
                if !shared.durable.is_off() {
                    let what = Named::Link(follower.at.1);
                    shared.queue.linked(Placed { pending, what });
                    continue;
                }
            }
            Err(e) => match e.raw_os_error() {
                // What led is gone, or has all the names that the file system allows: here is another one.
                Some(libc::ENOENT | libc::EMLINK) => {
                    replace(shared, &leader, follower);
                    continue;
                }
                // No links here, or not of this file, or it is on another file system: a file of its own.
                Some(libc::EPERM | libc::EXDEV | libc::EOPNOTSUPP | libc::ENOSYS) => {
                    if !stands(shared, &follower, &entry) {
                        ask(shared, &follower);
                        continue;
                    }
                }
                Some(libc::EEXIST | libc::EISDIR | libc::ENOTEMPTY) => {
                    shared.trouble(problem::CHANGED_HERE, &follower.name.path(), &e);
                }
                _ => shared.trouble(problem::WRITE, &follower.name.path(), &e),
            },
        }
        settled(shared, &pending, follower.at.1);
    }
}

/// One name: made in place where nothing stood, else beside it and renamed over it.
pub fn link(shared: &Shared, leader: &Name, follower: &Follower) -> io::Result<()> {
    let handles = shared.handles()?;
    let from = handles.dir(&leader.dir)?;
    let to = handles.dir(&follower.name.dir)?;
    let name = &*follower.name.name;
    if follower.place == Place::Absent {
        shared.in_dir(&to, || beneath::link_at(&*from, &leader.name, &*to, name))?;
        return shared.durable.restructured(&to);
    }
    let temp = shared.namer.name(Kind::Temp, name);
    shared.in_dir(&to, || beneath::link_at(&*from, &leader.name, &*to, &temp))?;
    let done = shared.commit(&to, &follower.name.dir, &temp, name, follower.place);
    // A rename of one name of a file to another of the same does nothing and leaves both.
    if done.is_err() || matches!(follower.place, Place::File(_)) && beneath::stat_at(&*to, &temp).is_ok() {
        let _ = beneath::unlink_at(&*to, &temp);
    }
    done.and_then(|()| shared.durable.restructured(&to))
}

/// A name was linked, or would be.
pub fn linked(shared: &Shared, follower: &Follower, entry: &Entry<'_>, leader: &Name) {
    let counters = &shared.counters;
    add(&counters.linked, 1);
    if entry.kind == REGULAR && !shared.options.dry_run {
        let absent = follower.place == Place::Absent;
        add(if absent { &counters.created } else { &counters.updated }, 1);
    }
    if shared.options.itemize {
        let path = follower.name.path();
        let line = itemize::linked(&path, entry, follower.new, follower.differs, &leader.path());
        shared.out.item(&line);
    }
}

/// Nothing more can be linked to what `old` has: `follower` leads in its stead, unless another one does already.
fn replace(shared: &Shared, old: &Arc<Name>, follower: Follower) {
    let mut groups = lock(&shared.linked);
    let slot = &mut groups.list[follower.group as usize];
    if matches!(slot, Group::There(name, _) if Arc::ptr_eq(name, old)) {
        *slot = Group::Open;
    }
    drop(groups);
    link_all(shared, vec![follower]);
}

/// Whether what is there under a name that cannot be linked is up to date by itself.
fn stands(shared: &Shared, follower: &Follower, entry: &Entry<'_>) -> bool {
    let look = || -> io::Result<bool> {
        let dir = shared.handles()?.dir(&follower.name.dir)?;
        let meta = beneath::stat_at(&*dir, &follower.name.name)?;
        if meta.kind != REGULAR || meta.size != entry.size {
            return Ok(false);
        }
        if !shared.options.hashes {
            return Ok(shared.same_time((entry.mtime_s, entry.mtime_ns), (meta.mtime_s, meta.mtime_ns)));
        }
        let (file, _) = beneath::open_read_at(&*dir, &follower.name.name)?;
        Ok(hash_file(&file, || shared.stopped())? == entry.hash)
    };
    look().unwrap_or(false)
}
