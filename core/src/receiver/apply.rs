//! The workers: DATA, taken apart and applied record by record, and everything else that waits in the queue.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::outbox::add;
use super::queue::Job;
use super::state::{Pending, Place};
use super::{Shared, basis, finish, flush, groups, problem};
use super::{pieces::piecewise, whole::whole};
use crate::beneath::{self, lock};
use crate::buffer;
use crate::compress;
use crate::list::Entry;
use crate::profile::Stage;
use crate::record::{self, Record};

/// Runs jobs until the session stops.
pub fn run(shared: &Shared) {
    let profile = &shared.profile;
    let next = || shared.queue.next_job(|| shared.stopped());
    while let Some(job) = profile.time(Stage::Idle, next) {
        shared.grow();
        if !shared.enter() {
            return;
        }
        match job {
            Job::Data(payload) => profile.time(Stage::Apply, || data(shared, payload)),
            Job::Basis(chunk, index, partial) => {
                profile.time(Stage::Sign, || basis::answer(shared, chunk, index, partial));
            }
            Job::Links(followers) => profile.time(Stage::Apply, || groups::link_all(shared, followers)),
            Job::Sign(signing) => {
                if profile.time(Stage::Sign, || signing.work(shared)) {
                    shared.queue.sign(&signing, 1);
                }
            }
            Job::Commit => profile.time(Stage::Sync, || flush::run(shared)),
            Job::Finish => {
                // A profile that goes out with DONE tells of this, too.
                if profile.time(Stage::Finish, || finish::run(shared)) {
                    shared.out.done();
                }
            }
        }
    }
}

/// The highest chunk that a payload's records refer to.
pub fn last_chunk_untrusted(payload: &[u8]) -> Result<u32, &'static str> {
    if payload.is_empty() {
        return Err("DATA without a record");
    }
    if let Some(header) = compress::header_untrusted(payload)? {
        return Ok(header.chunk);
    }
    let (mut at, mut last) = (0, 0);
    while at < payload.len() {
        let (record, next) = Record::parse_untrusted(payload, at)?;
        last = last.max(record.chunk);
        at = next;
    }
    Ok(last)
}

fn data(shared: &Shared, payload: Vec<u8>) {
    // What waits here, waits packed; so do the credits count.
    let wire = payload.len() as u64;
    let payload = match unpacked(shared, payload) {
        Ok(payload) => payload,
        Err(what) => return shared.violation(what),
    };
    let mut at = 0;
    while at < payload.len() && !shared.stopped() {
        let step = Record::parse_untrusted(&payload, at).and_then(|(record, next)| {
            let content = &payload[at + record::HEADER..next];
            at = next;
            apply(shared, &record, content)
        });
        if let Err(what) = step {
            return shared.violation(what);
        }
    }
    add(&shared.counters.data_bytes, wire);
    shared.out.consumed(wire);
    buffer::give(payload);
}

/// The records of a payload.
fn unpacked(shared: &Shared, payload: Vec<u8>) -> Result<Vec<u8>, &'static str> {
    let Some(header) = compress::header_untrusted(&payload)? else {
        return Ok(payload);
    };
    if header.flags != 0 {
        return Err("packed DATA with flags");
    }
    let unpack = || compress::unpack_untrusted(&payload, &header);
    let raw = shared.profile.time(Stage::Decompress, unpack)?;
    buffer::give(payload);
    Ok(raw)
}

/// One record. Err says how it breaks the protocol.
fn apply(shared: &Shared, record: &Record, content: &[u8]) -> Result<(), &'static str> {
    let pending = lock(&shared.pending).get(&record.chunk).cloned();
    let pending = pending.ok_or("data for a chunk of which nothing is wanted")?;
    let i = record.index;
    let place = pending.wanted(i).ok_or("data for a file that was not asked for")?;
    match record.kind {
        record::WHOLE => whole(shared, &pending, record, content),
        record::PROBLEM => {
            if record.code == 0 || record.code > problem::MAX {
                return Err("a problem of an unknown kind");
            }
            let wrong = changed(record, place);
            if wrong.is_none() {
                let path = path_of(shared, &pending, i);
                let errno = record.errno.cast_signed();
                shared.out.problem(&shared.counters, record.code, errno, &path);
                if record.code == problem::UNREADABLE {
                    groups::refused(shared, &pending, i, record.code, errno);
                }
            }
            if record.piece > 0 {
                return piecewise(shared, &pending, record, content, place);
            }
            resolve(shared, &pending, i, wrong);
            Ok(())
        }
        _ => piecewise(shared, &pending, record, content, place),
    }
}

/// Where a wanted entry goes: its directory's path and its name there.
pub fn target<'a>(shared: &'a Shared, pending: &'a Pending, i: u32) -> (&'a [u8], &'a [u8], Entry<'a>) {
    let (dir, entry) = pending.entry(i);
    (dir, shared.single.get().map_or(entry.name, |name| name), entry)
}

/// A wanted entry's path.
pub fn path_of(shared: &Shared, pending: &Pending, i: u32) -> Vec<u8> {
    let (dir, name, _) = target(shared, pending, i);
    beneath::join(dir, name)
}

/// How a file came wrong: problem code and errno.
pub type Wrong = (u8, i32);

/// What a PROBLEM says of a file that changed while it was read: it may have come to rest.
pub fn changed(record: &Record, place: Place) -> Option<Wrong> {
    (record.code == problem::CHANGED && place != Place::Nowhere).then_some((record.code, record.errno.cast_signed()))
}

/// Nothing more of entry `i` is under way. It came wrong, or it will not come, which was told.
pub fn resolve(shared: &Shared, pending: &Arc<Pending>, i: u32, wrong: Option<Wrong>) {
    let Some(place) = pending.claim(i) else { return };
    match wrong {
        Some(wrong) => came_wrong(shared, pending, i, place, wrong),
        None => settled(shared, pending, i),
    }
}

/// Entry `i`, which the caller has claimed, was applied or will not come: nothing about it is kept.
pub fn settled(shared: &Shared, pending: &Arc<Pending>, i: u32) {
    drop_large(shared, pending, i);
    groups::settle(shared, pending, i);
    let settled = pending.fresh(i).map_or(1, |fresh| fresh.settle(shared, pending));
    if settled > 0 {
        told(shared, pending, settled);
        shared.queue.resolved(settled);
    }
}

/// So many entries of a chunk are dealt with: the other side may hear of it.
pub fn told(shared: &Shared, pending: &Pending, entries: u64) {
    if pending.settle(entries) {
        lock(&shared.pending).remove(&pending.n);
        shared.out.forget(pending.n, pending.chunk.len() as u64);
    }
}

/// What is here of a file that is not here whole, goes.
pub fn drop_large(shared: &Shared, pending: &Pending, i: u32) {
    let Some(large) = lock(&shared.large).remove(&(pending.n, i)) else {
        return;
    };
    if let Some((_, temp)) = large.abandon() {
        let removed = pending.dir(shared, i).and_then(|fd| beneath::unlink_at(&*fd, &temp));
        pending.touch(i);
        drop(removed); // a temporary file that cannot be removed now is swept later
    }
    if let Some(bytes) = large.signed {
        shared.queue.unsigned(bytes);
    }
}

/// Asks for entry `i`, which the caller has claimed, once more. False, and it stays claimed: that was done before.
pub fn ask_again(shared: &Shared, pending: &Pending, i: u32, place: Place) -> bool {
    let asked = !shared.full.load(Ordering::Acquire) && pending.again(i, place);
    if asked {
        let payload = [pending.n.to_le_bytes(), i.to_le_bytes()].concat();
        shared.out.event(("again", 0, Some(payload)));
    }
    asked
}

/// Entry `i`, which the caller has claimed and of which nothing more is under way, came wrong: it is asked for once
/// more, whole. The second time it is a problem.
pub fn came_wrong(shared: &Shared, pending: &Arc<Pending>, i: u32, place: Place, (code, errno): Wrong) {
    drop_large(shared, pending, i);
    if ask_again(shared, pending, i, place) {
        return;
    }
    let path = path_of(shared, pending, i);
    shared.out.problem(&shared.counters, code, errno, &path);
    if code == problem::CHANGED {
        groups::refused(shared, pending, i, code, errno);
    }
    settled(shared, pending, i);
}
