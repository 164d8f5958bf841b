//! The workers: DATA, taken apart and applied record by record, and everything else that waits in the queue.

use std::sync::Arc;

use super::outbox::add;
use super::queue::Job;
use super::state::Pending;
use super::{Shared, basis, finish, groups, problem};
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
            let errno = record.errno.cast_signed();
            let path = path_of(shared, &pending, i);
            shared.out.problem(&shared.counters, record.code, errno, &path);
            if matches!(record.code, problem::UNREADABLE | problem::CHANGED) {
                groups::refused(shared, &pending, i, record.code, errno);
            }
            if record.piece > 0 {
                return piecewise(shared, &pending, record, content, place);
            }
            settle(shared, &pending, i);
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

/// Entry `i` will not come: nothing about it is kept.
pub fn settle(shared: &Shared, pending: &Arc<Pending>, i: u32) {
    if pending.claim(i).is_some() {
        settled(shared, pending, i);
    }
}

/// Entry `i`, which the caller has claimed, was applied or will not come: nothing about it is kept.
pub fn settled(shared: &Shared, pending: &Arc<Pending>, i: u32) {
    let large = lock(&shared.large).remove(&(pending.n, i));
    if let Some(large) = large {
        if let (_, Some((_, temp))) = large.abandon() {
            let removed = pending.dir(shared, i).and_then(|fd| beneath::unlink_at(&*fd, &temp));
            pending.touch(i);
            drop(removed); // a temporary file that cannot be removed now is swept later
        }
        if let Some(bytes) = large.signed {
            shared.queue.unsigned(bytes);
        }
    }
    groups::settle(shared, pending, i);
    let settled = pending.fresh(i).map_or(1, |fresh| fresh.settle(shared));
    if settled == 0 {
        return;
    }
    if pending.settle(settled) {
        lock(&shared.pending).remove(&pending.n);
        shared.out.forget(pending.n, pending.chunk.len() as u64);
    }
    shared.queue.resolved(settled);
}

/// Reports a file whose content is not what was sent.
pub fn verify_failed(shared: &Shared, pending: &Pending, i: u32) {
    let path = path_of(shared, pending, i);
    shared.out.problem(&shared.counters, problem::VERIFY, 0, &path);
}
