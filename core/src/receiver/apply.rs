//! Applies DATA: verifies each record, writes beside the target, and renames.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::large::{Large, Progress};
use super::outbox::add;
use super::queue::Job;
use super::state::{Pending, Place};
use super::{Shared, basis, finish, problem};
use crate::beneath::{self, lock};
use crate::list::Entry;
use crate::piece::{self, PIECE};
use crate::record::{self, Record};
use crate::temp::Kind;
use crate::{buffer, delta};

/// Runs jobs until the session stops.
pub fn run(shared: &Shared) {
    while let Some(job) = shared.queue.next_job(|| shared.stopped()) {
        let begun = Instant::now();
        let spent = match job {
            Job::Data(payload) => {
                data(shared, payload);
                &shared.counters.apply_ns
            }
            Job::Basis(chunk, index, partial) => {
                basis::answer(shared, chunk, index, partial);
                &shared.counters.sign_ns
            }
            Job::Sign(signing) => {
                signing.work(shared);
                &shared.counters.sign_ns
            }
            Job::Finish => {
                finish::run(shared);
                &shared.counters.finish_ns
            }
        };
        add(spent, begun.elapsed().as_nanos() as u64);
    }
}

/// The highest chunk that a payload's records refer to.
pub fn last_chunk_untrusted(payload: &[u8]) -> Result<u32, &'static str> {
    let (mut at, mut last) = (0, 0);
    while at < payload.len() {
        let (record, next) = Record::parse_untrusted(payload, at)?;
        last = last.max(record.chunk);
        at = next;
    }
    Ok(last)
}

fn data(shared: &Shared, payload: Vec<u8>) {
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
    add(&shared.counters.data_bytes, payload.len() as u64);
    shared.out.consumed(payload.len() as u64);
    buffer::give(payload);
}

/// One record. Err says how it breaks the protocol.
fn apply(shared: &Shared, record: &Record, content: &[u8]) -> Result<(), &'static str> {
    let pending = lock(&shared.pending).get(&record.chunk).cloned();
    let pending = pending.ok_or("data for a chunk of which nothing is wanted")?;
    let place = pending
        .wanted(record.index)
        .ok_or("data for a file that was not asked for")?;
    match record.kind {
        record::WHOLE => whole(shared, &pending, record, content, place),
        record::PROBLEM => {
            if record.code == 0 || record.code > problem::MAX {
                return Err("a problem of an unknown kind");
            }
            let errno = record.errno.cast_signed();
            shared.out.problem(
                &shared.counters,
                record.code,
                errno,
                &path_of(shared, &pending, record.index),
            );
            settle(shared, &pending, record.index);
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

fn path_of(shared: &Shared, pending: &Pending, i: u32) -> Vec<u8> {
    let (dir, name, _) = target(shared, pending, i);
    beneath::join(dir, name)
}

/// Entry `i` was applied or will not come: nothing about it is kept.
pub fn settle(shared: &Shared, pending: &Arc<Pending>, i: u32) {
    if pending.claim(i).is_none() {
        return;
    }
    if let Some(large) = lock(&shared.large).remove(&(pending.n, i)) {
        if let Some((_, temp)) = large.abandon() {
            let (dir, ..) = target(shared, pending, i);
            let removed = shared
                .handles()
                .and_then(|h| h.dir(dir))
                .and_then(|fd| beneath::unlink_at(&*fd, &temp));
            drop(removed); // a temporary file that cannot be removed now is swept later
        }
        if large.signed > 0 {
            shared.queue.unsigned(large.signed);
        }
    }
    if pending.settle() {
        lock(&shared.pending).remove(&pending.n);
        shared.out.forget(pending.n, pending.chunk.len() as u64);
    }
    shared.queue.resolved(1);
}

fn whole(
    shared: &Shared,
    pending: &Arc<Pending>,
    record: &Record,
    content: &[u8],
    place: Place,
) -> Result<(), &'static str> {
    if record.size > PIECE as u64 {
        return Err("a file that is too large for one record");
    }
    let i = record.index;
    let mut made = Vec::new();
    let content = match record.encoding {
        record::RAW if content.len() as u64 == record.size => {
            add(&shared.counters.literal, record.size);
            content
        }
        record::DELTA => {
            made.resize(record.size as usize, 0);
            let large = lock(&shared.large).get(&(record.chunk, i)).cloned();
            if !from_delta(shared, large.as_deref(), content, &mut made)? {
                return verify_failed(shared, pending, i);
            }
            &made
        }
        _ => return Err("a file whose data do not have its size"),
    };
    if piece::hash(content) != record.hash {
        return verify_failed(shared, pending, i);
    }
    if shared.full.load(Ordering::Acquire) {
        settle(shared, pending, i);
        return Ok(());
    }
    let (dir, name, _) = target(shared, pending, i);
    let written = shared.handles().and_then(|h| h.dir(dir)).and_then(|fd| {
        let temp = shared.namer.name(Kind::Temp, name);
        let file = create(shared, &fd, dir, &temp)?;
        let done = write_all(&file, content)
            .and_then(|()| attributes(shared, &file, pending, record))
            .and_then(|()| shared.commit(&*fd, dir, &temp, name, place));
        if done.is_err() {
            let _ = beneath::unlink_at(&*fd, &temp);
        }
        done
    });
    finished(shared, pending, record, place, written);
    Ok(())
}

/// Creates a temporary file, opening its directory up when we may not write there but own it.
fn create(shared: &Shared, fd: &OwnedFd, dir: &[u8], temp: &[u8]) -> io::Result<OwnedFd> {
    match beneath::create_at(fd, temp) {
        Err(e) if e.raw_os_error() == Some(libc::EACCES) && !dir.is_empty() => {
            let (parent, name) = beneath::split(dir);
            let parent = shared.handles()?.dir(parent)?;
            let mode = beneath::stat(fd)?.mode;
            beneath::chmod_at(&*parent, name, mode | 0o700).map_err(|_| e)?;
            // Its mode is set again at the end, as that of every touched directory.
            beneath::create_at(fd, temp)
        }
        other => other,
    }
}

fn verify_failed(shared: &Shared, pending: &Arc<Pending>, i: u32) -> Result<(), &'static str> {
    shared
        .out
        .problem(&shared.counters, problem::VERIFY, 0, &path_of(shared, pending, i));
    settle(shared, pending, i);
    Ok(())
}

/// Rebuilds content from its basis. False when the basis is not what it was.
fn from_delta(shared: &Shared, large: Option<&Large>, tokens: &[u8], out: &mut [u8]) -> Result<bool, &'static str> {
    let basis = large
        .and_then(|l| l.basis.as_ref())
        .ok_or("a delta for a file without a basis")?;
    let read = |at: u64, into: &mut [u8]| read_at(&basis.file, at, into);
    match delta::apply_untrusted(tokens, out.len(), basis.size, read, out) {
        Ok(stats) => {
            add(&shared.counters.literal, stats.literal);
            add(&shared.counters.matched, stats.matched);
            Ok(true)
        }
        Err(delta::ApplyError::Violation(what)) => Err(what),
        Err(delta::ApplyError::Io(_)) => Ok(false),
    }
}

fn piecewise(
    shared: &Shared,
    pending: &Arc<Pending>,
    record: &Record,
    content: &[u8],
    place: Place,
) -> Result<(), &'static str> {
    let i = record.index;
    let large = Arc::clone(lock(&shared.large).entry((record.chunk, i)).or_default());
    let progress = if record.kind == record::END {
        large
            .check_untrusted(&Record { piece: 0, ..*record })
            .or_else(|what| match what {
                "a piece that came twice" => Ok(0),
                other => Err(other),
            })?;
        large.end(record)
    } else {
        let len = large.check_untrusted(record)?;
        let kept = piece(shared, pending, &large, record, content, len)?;
        large.piece(record, kept)
    };
    match progress {
        Progress::Partly => {}
        Progress::Broken => settle(shared, pending, i),
        Progress::Wrong => return verify_failed(shared, pending, i),
        Progress::Whole(file, temp, end) => {
            let (dir, name, _) = target(shared, pending, i);
            let written = shared.handles().and_then(|h| h.dir(dir)).and_then(|fd| {
                let done = attributes(shared, &file, pending, &end)
                    .and_then(|()| shared.commit(&*fd, dir, &temp, name, place));
                if done.is_err() {
                    let _ = beneath::unlink_at(&*fd, &temp);
                }
                done
            });
            finished(shared, pending, &end, place, written);
        }
    }
    Ok(())
}

/// Puts one piece into its file. False when it could not be kept; the problem was reported then.
fn piece(
    shared: &Shared,
    pending: &Arc<Pending>,
    large: &Large,
    record: &Record,
    content: &[u8],
    len: usize,
) -> Result<bool, &'static str> {
    let mut made = Vec::new();
    let content = match record.encoding {
        record::RAW if content.len() == len => {
            add(&shared.counters.literal, len as u64);
            content
        }
        record::DELTA => {
            made = buffer::take(len);
            made.resize(len, 0);
            if !from_delta(shared, Some(large), content, &mut made)? {
                return Ok(broken(
                    shared,
                    pending,
                    large,
                    record.index,
                    problem::CHANGED_HERE,
                    None,
                ));
            }
            &made
        }
        record::SAME => {
            if large.held.get(record.piece as usize) != Some(&record.hash) {
                return Err("a piece that is said to be here and is not");
            }
            add(&shared.counters.matched, len as u64);
            return Ok(true);
        }
        _ => return Err("a piece whose data do not have its size"),
    };
    if piece::chaining_value(content, record.piece, record.size) != record.hash {
        return Ok(broken(shared, pending, large, record.index, problem::VERIFY, None));
    }
    if shared.full.load(Ordering::Acquire) {
        return Ok(false);
    }
    let (dir, name, _) = target(shared, pending, record.index);
    let written = shared.handles().and_then(|h| h.dir(dir)).and_then(|fd| {
        let Some(file) = large.file(shared, &fd, name)? else {
            return Ok(false);
        };
        let _alone = lock(&large.writing);
        write_at(&file, content, u64::from(record.piece) * PIECE as u64)?;
        Ok(true)
    });
    buffer::give(made);
    match written {
        Ok(kept) => Ok(kept),
        Err(e) => Ok(broken(shared, pending, large, record.index, problem::WRITE, Some(&e))),
    }
}

/// Gives a file up: its temporary file goes at once, its later pieces are dropped.
fn broken(shared: &Shared, pending: &Pending, large: &Large, i: u32, code: u8, e: Option<&io::Error>) -> bool {
    let (dir, name, _) = target(shared, pending, i);
    let path = beneath::join(dir, name);
    match e {
        Some(e) => shared.trouble(code, &path, e),
        None => shared.out.problem(&shared.counters, code, 0, &path),
    }
    if let Some((_, temp)) = large.abandon()
        && let Ok(fd) = shared.handles().and_then(|h| h.dir(dir))
    {
        let _ = beneath::unlink_at(&*fd, &temp);
    }
    false
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

fn finished(shared: &Shared, pending: &Arc<Pending>, record: &Record, place: Place, written: io::Result<()>) {
    let i = record.index;
    match written {
        Ok(()) => {
            pending.touch(i);
            add(&shared.counters.files, 1);
            add(&shared.counters.bytes, record.size);
            let counter = if place == Place::Absent {
                &shared.counters.created
            } else {
                &shared.counters.updated
            };
            add(counter, 1);
        }
        Err(e) => {
            let changed = matches!(e.raw_os_error(), Some(libc::EEXIST | libc::EISDIR | libc::ENOTEMPTY));
            let code = if changed { problem::CHANGED_HERE } else { problem::WRITE };
            shared.trouble(code, &path_of(shared, pending, i), &e);
        }
    }
    settle(shared, pending, i);
}

fn write_all(file: &OwnedFd, mut content: &[u8]) -> io::Result<()> {
    while !content.is_empty() {
        match rustix::io::write(file, content) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => content = &content[n..],
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn write_at(file: &OwnedFd, mut content: &[u8], mut at: u64) -> io::Result<()> {
    while !content.is_empty() {
        match rustix::io::pwrite(file, content, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                content = &content[n..];
                at += n as u64;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Fills `into` from `at`; an early end of the file is an error.
pub fn read_at(file: &OwnedFd, mut at: u64, mut into: &mut [u8]) -> io::Result<()> {
    while !into.is_empty() {
        match rustix::io::pread(file, &mut *into, at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                into = &mut into[n..];
                at += n as u64;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}
