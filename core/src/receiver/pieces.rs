//! A file that comes in pieces.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::apply::{changed, path_of, resolve, target};
use super::commit::{self, Ready};
use super::large::{Large, Progress};
use super::outbox::add;
use super::state::{Pending, Place};
use super::whole::from_delta;
use super::{Shared, problem};
use crate::beneath::{self, lock};
use crate::buffer;
use crate::delta;
use crate::holes;
use crate::list::u32_at;
use crate::piece::{self, PIECE};
use crate::profile::Stage;
use crate::record::{self, Record};

/// A PIECE, its file's END, or the PROBLEM that stands for that. Records of one file overtake each other: what a
/// record makes of the file is known when all before it are here. Err says how it breaks the protocol.
pub fn piecewise(
    shared: &Shared,
    pending: &Arc<Pending>,
    record: &Record,
    content: &[u8],
    place: Place,
) -> Result<(), &'static str> {
    let i = record.index;
    let begin = || Arc::new(Large::new(shared.durable.failures()));
    let large = Arc::clone(lock(&shared.large).entry((record.chunk, i)).or_insert_with(begin));
    let progress = match record.kind {
        record::END => large.end_untrusted(record)?,
        record::PROBLEM => large.give_up_untrusted(record.piece, changed(record, place))?,
        _ => {
            let count = match record.encoding {
                record::HOLE => u32_at(content, 0),
                _ => 1,
            };
            let len = large.check_untrusted(record, count)?;
            let kept = place != Place::Nowhere && piece(shared, pending, &large, record, content, (count, len))?;
            large.piece_untrusted(record, count, kept)?
        }
    };
    match progress {
        Progress::Partly => {}
        Progress::Broken(wrong) => resolve(shared, pending, i, wrong),
        Progress::Wrong => resolve(shared, pending, i, Some((problem::VERIFY, 0))),
        Progress::Whole(file, temp, end) => {
            let dir = pending.dir(shared, i);
            let Some(place) = pending.claim(i) else {
                let _ = dir.and_then(|dir| beneath::unlink_at(&*dir, &temp));
                return Err("pieces of a file that came before");
            };
            pending.touch(i);
            let ready = dir.and_then(|dir| {
                // A partial that was continued may be longer than what its file has become.
                if beneath::stat(&*file)?.size != end.size
                    && let Err(e) = rustix::fs::ftruncate(&*file, end.size)
                {
                    let _ = beneath::unlink_at(&*dir, &temp);
                    return Err(e.into());
                }
                let born = large.born;
                Ok(Ready { dir, file, temp, born })
            });
            commit::written(shared, pending, &end, place, ready);
        }
    }
    Ok(())
}

/// Puts one piece, or a hole of so many pieces and bytes, into its file. False when it could not be kept.
fn piece(
    shared: &Shared,
    pending: &Arc<Pending>,
    large: &Large,
    record: &Record,
    content: &[u8],
    (count, len): (u32, u64),
) -> Result<bool, &'static str> {
    let i = record.index;
    let mut made = Vec::new();
    let mut gaps = Vec::new();
    let content = match record.encoding {
        record::RAW if content.len() as u64 == len => {
            add(&shared.counters.literal, len);
            content
        }
        // One copy, and what it makes was put in place when it was signed.
        record::DELTA if content.len() == delta::COPY_LEN && large.holds(record) => {
            add(&shared.counters.matched, len);
            shared.queue.look_again();
            return Ok(true);
        }
        record::DELTA => {
            made = buffer::filled(len as usize);
            if !from_delta(shared, Some(large), content, &mut made, &mut gaps)? {
                return Ok(spoiled(shared, pending, large, i, Err(problem::CHANGED_HERE)));
            }
            &made
        }
        record::SAME if large.holds(record) => {
            add(&shared.counters.matched, len);
            return Ok(true);
        }
        record::SAME => return Err("a piece that is said to be here and is not"),
        record::HOLE => b"",
        _ => return Err("a piece whose data do not have its size"),
    };
    let hole = record.encoding == record::HOLE;
    let hash = || piece::chaining_value(content, record.piece, record.size);
    if !hole && shared.profile.time(Stage::Hash, hash) != record.hash {
        return Ok(spoiled(shared, pending, large, i, Err(problem::VERIFY)));
    }
    if shared.full.load(Ordering::Acquire) {
        return Ok(false);
    }
    let from = u64::from(record.piece) * PIECE as u64;
    let written = large.write(record, count, |dirty| {
        store(shared, pending, large, i, |file| {
            if dirty {
                let whole = hole.then_some(from..from + len);
                let gaps = gaps.iter().map(|gap| from + gap.start as u64..from + gap.end as u64);
                whole
                    .into_iter()
                    .chain(gaps)
                    .try_for_each(|gap| holes::clear(file, gap))?;
            }
            holes::write_around(file, content, from, &gaps)
        })
    });
    buffer::give(made);
    match written {
        Ok(kept) => Ok(kept),
        Err(e) => Ok(spoiled(shared, pending, large, i, Ok(e))),
    }
}

/// Has `write` write to the file's temporary one, which is made when there is none yet. False: the file was given up.
pub fn store(
    shared: &Shared,
    pending: &Pending,
    large: &Large,
    i: u32,
    write: impl Fn(&OwnedFd) -> io::Result<()>,
) -> io::Result<bool> {
    let (_, name, _) = target(shared, pending, i);
    let fd = pending.dir(shared, i)?;
    pending.touch(i);
    let Some(file) = shared.in_dir(&fd, || large.file(shared, &fd, name))? else {
        return Ok(false);
    };
    shared.profile.time(Stage::Write, || write(&file))?;
    Ok(true)
}

/// Gives a file up: its temporary file goes at once, its later pieces are dropped. The first trouble counts: the
/// destination's is told here, content that is `wrong` when the file is resolved.
fn spoiled(shared: &Shared, pending: &Pending, large: &Large, i: u32, trouble: Result<io::Error, u8>) -> bool {
    let path = path_of(shared, pending, i);
    let (first, temp) = large.spoil(trouble.as_ref().err().map(|&code| (code, 0)));
    if let (true, Ok(e)) = (first, &trouble) {
        shared.trouble(problem::WRITE, &path, e);
    }
    if let Some((_, temp)) = temp
        && let Ok(fd) = pending.dir(shared, i)
    {
        let _ = beneath::unlink_at(&*fd, &temp);
    }
    false
}
