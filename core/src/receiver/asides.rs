//! What stood where something of another type came: aside until the session finishes, put back if it fails.

use std::io;
use std::sync::Arc;

use super::finish::{put_away, remove};
use super::outbox::add;
use super::state::Pending;
use super::survey::survey;
use super::{Shared, flush, itemize, problem};
use crate::beneath::{self, join, lock};
use crate::list::DIRECTORY;

/// An entry that stands under an aside name.
pub struct Aside {
    /// Its directory's path.
    pub dir: Vec<u8>,
    /// Where it stood, and where what replaced it stands.
    pub name: Vec<u8>,
    /// Where it stands now.
    pub aside: Vec<u8>,
}

/// Removes what made room for another type.
pub fn remove_asides(shared: &Shared) {
    for aside in std::mem::take(&mut *lock(&shared.asides)) {
        if let Err(e) = remove_aside(shared, &aside) {
            shared.trouble(problem::NOT_DELETED, &join(&aside.dir, &aside.name), &e);
        }
    }
}

fn remove_aside(shared: &Shared, aside: &Aside) -> io::Result<()> {
    let stood = join(&aside.dir, &aside.name);
    let stands = join(&aside.dir, &aside.aside);
    let fd = shared.handles()?.dir(&aside.dir)?;
    // Filters know it, and what is in it, by where it stood.
    let inside = survey(shared, &*fd, &aside.aside, &stood)?;
    let trash = shared.trash.as_ref().filter(|_| !inside.protected);
    if let Some(trash) = trash {
        put_away(shared, trash, &stands, &stood)?;
    }
    for (path, directory) in inside.entries.iter().rev() {
        let below = &path[stood.len()..];
        if trash.is_none() {
            remove(shared, &[&stands, below].concat(), path, *directory)?;
        }
        add(&shared.counters.deleted, 1);
        if shared.options.itemize && !below.is_empty() {
            shared.out.item(&itemize::deleting(path, *directory));
        }
    }
    if inside.protected {
        return Err(io::Error::from_raw_os_error(libc::ENOTEMPTY));
    }
    Ok(())
}

/// Whether `roll_back` has something to do.
pub fn is_due(shared: &Shared) -> bool {
    let idle = lock(&shared.asides).is_empty() && lock(&shared.pending).is_empty() && lock(&shared.large).is_empty();
    !idle || shared.queue.is_staged()
}

/// The session failed or was cancelled: puts back what stood aside, removes temporary files, keeps large partials.
pub fn roll_back(shared: &Shared) {
    for aside in std::mem::take(&mut *lock(&shared.asides)) {
        let Ok(fd) = shared.handles().and_then(|h| h.dir(&aside.dir)) else {
            continue;
        };
        // A directory that replaced a file goes back only while nothing came into it; a file that replaced a
        // directory is sent again.
        let cleared = match beneath::stat_at(&*fd, &aside.name) {
            Ok(meta) if meta.kind == DIRECTORY => beneath::rmdir_at(&*fd, &aside.name),
            Ok(_) => beneath::unlink_at(&*fd, &aside.name),
            Err(e) => Err(e),
        };
        let missing = matches!(&cleared, Err(e) if e.raw_os_error() == Some(libc::ENOENT));
        if cleared.is_ok() || missing {
            let _ = beneath::rename_new_at(&*fd, &aside.aside, &aside.name);
        } else if !matches!(beneath::stat_at(&*fd, &aside.aside), Ok(meta) if meta.kind == DIRECTORY) {
            let _ = beneath::unlink_at(&*fd, &aside.aside);
        }
    }
    flush::keep(shared);
    let pending: Vec<Arc<Pending>> = lock(&shared.pending).values().cloned().collect();
    for home in pending.iter().flat_map(|pending| &pending.homes) {
        if let Some(fresh) = &home.fresh {
            fresh.keep(shared);
        }
    }
    let large = std::mem::take(&mut *lock(&shared.large));
    for ((chunk, index), large) in large {
        let Some((file, temp)) = large.abandon() else {
            continue;
        };
        let keep = beneath::stat(&*file).is_ok_and(|m| m.size >= shared.options.partial_min);
        let pending = lock(&shared.pending).get(&chunk).cloned();
        if let (false, Some(pending)) = (keep, pending) {
            let (dir, ..) = super::apply::target(shared, &pending, index);
            let removed = shared
                .handles()
                .and_then(|h| h.dir(dir))
                .and_then(|fd| beneath::unlink_at(&*fd, &temp));
            drop(removed);
        }
    }
}
