//! A file that comes in one record.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::apply::{came_wrong, resolve, settled, target};
use super::commit::{self, Ready};
use super::large::Large;
use super::outbox::add;
use super::state::{Pending, Place};
use super::{Shared, problem};
use crate::beneath::{self, lock};
use crate::delta;
use crate::holes;
use crate::piece::{self, PIECE};
use crate::profile::Stage;
use crate::record::{self, Record};
use crate::rw::read_at;
use crate::temp::Kind;

/// Verifies it, writes it beside its target, and renames. Err says how the record breaks the protocol.
pub fn whole(shared: &Shared, pending: &Arc<Pending>, record: &Record, content: &[u8]) -> Result<(), &'static str> {
    if record.size > PIECE as u64 {
        return Err("a file that is too large for one record");
    }
    let i = record.index;
    let mut made = Vec::new();
    let mut gaps = Vec::new();
    let content = match record.encoding {
        record::RAW if content.len() as u64 == record.size => {
            add(&shared.counters.literal, record.size);
            content
        }
        record::DELTA => {
            made.resize(record.size as usize, 0);
            let large = lock(&shared.large).get(&(record.chunk, i)).cloned();
            if !from_delta(shared, large.as_deref(), content, &mut made, &mut gaps)? {
                resolve(shared, pending, i, Some((problem::CHANGED_HERE, 0)));
                return Ok(());
            }
            &made
        }
        _ => return Err("a file whose data do not have its size"),
    };
    // From here on it is this worker's alone.
    let place = pending.claim(i).ok_or("data for a file that came before")?;
    if place == Place::Nowhere || shared.full.load(Ordering::Acquire) {
        settled(shared, pending, i);
        return Ok(());
    }
    if shared.profile.time(Stage::Hash, || piece::hash(content)) != record.hash {
        came_wrong(shared, pending, i, place, (problem::VERIFY, 0));
        return Ok(());
    }
    let (_, name, _) = target(shared, pending, i);
    let born = shared.durable.failures();
    let ready = pending.dir(shared, i).and_then(|dir| {
        pending.touch(i);
        let temp = match pending.fresh(i) {
            Some(_) => name.to_vec(),
            None => shared.namer.name(Kind::Temp, name),
        };
        let create = || shared.in_dir(&dir, || beneath::create_at(&*dir, &temp));
        let file = shared.profile.time(Stage::Write, create)?;
        let fill = || {
            holes::write_around(&file, content, 0, &gaps)?;
            match gaps.last() {
                Some(gap) if gap.end == content.len() => Ok(rustix::fs::ftruncate(&file, record.size)?),
                _ => Ok(()),
            }
        };
        if let Err(e) = shared.profile.time(Stage::Write, fill) {
            let _ = beneath::unlink_at(&*dir, &temp);
            return Err(e);
        }
        let file = Arc::new(file);
        Ok(Ready { dir, file, temp, born })
    });
    commit::written(shared, pending, record, place, ready);
    Ok(())
}

/// Makes content from tokens, and its basis where it has one; `gaps` are its holes. False when the basis is not what it was.
pub fn from_delta(
    shared: &Shared,
    large: Option<&Large>,
    tokens: &[u8],
    out: &mut [u8],
    gaps: &mut Vec<Range<usize>>,
) -> Result<bool, &'static str> {
    let basis = large.and_then(|l| l.basis.as_ref());
    let size = basis.map_or(0, |basis| basis.size);
    let read = |at: u64, into: &mut [u8]| match basis {
        Some(basis) => read_at(&basis.file, at, into),
        None => Err(io::ErrorKind::NotFound.into()),
    };
    let apply = || delta::apply_untrusted(tokens, size, read, out, gaps);
    match shared.profile.time(Stage::Delta, apply) {
        Ok(stats) => {
            add(&shared.counters.literal, stats.literal);
            add(&shared.counters.matched, stats.matched);
            Ok(true)
        }
        Err(delta::ApplyError::Violation(what)) => Err(what),
        Err(delta::ApplyError::Io(_)) => Ok(false),
    }
}
