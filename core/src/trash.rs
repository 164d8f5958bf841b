//! `.syncctl-trash` of a destination: what is in it, put back, or removed for good.
//!
//! ```text
//! ROOT/.syncctl-trash/YYYYMMDD-HHMMSS-XXXXXXXX/path/below/the/root
//! ```
//!
//! A batch is one session's: when it began (UTC), and the first digits of its id. `receiver::trash` fills them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::beneath::{self, Root, join, split};
use crate::list::{DIRECTORY, is_component};
use crate::temp::TRASH;

/// Bytes of `YYYYMMDD-HHMMSS-`, and of the digits behind it.
const STAMP: usize = 16;
const DIGITS: usize = 8;

/// An entry: batch, path, bytes, whether it is a directory (without anything in it).
type Row = (Vec<u8>, Vec<u8>, u64, bool);

/// Whether `name` is a batch's.
pub fn is_batch(name: &[u8]) -> bool {
    let digit = |i: usize, b: u8| match i {
        8 | 15 => b == b'-',
        0..STAMP => b.is_ascii_digit(),
        _ => matches!(b, b'0'..=b'9' | b'a'..=b'f'),
    };
    name.len() == STAMP + DIGITS && name.iter().enumerate().all(|(i, &b)| digit(i, b))
}

/// A root, its trash, and the names of the batches in that.
type Opened = (Root, Root, Vec<Vec<u8>>);

/// The trash of `root`, and its batches, oldest first; None when there is none.
fn open(root: &[u8]) -> io::Result<Option<Opened>> {
    let root = Root::open(root)?;
    let trash = match beneath::open_dir_at(root.fd(), TRASH) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => Root::from_fd(other?),
    };
    let mut batches = Vec::new();
    beneath::each_name(&trash.open_dir(b"")?, |name| {
        if is_batch(name) {
            batches.push(name.to_vec());
        }
    })?;
    batches.sort_unstable();
    Ok(Some((root, trash, batches)))
}

fn entries(dir: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    beneath::each_name(dir, |name| names.push(name.to_vec()))?;
    names.sort_unstable();
    Ok(names)
}

/// Opens a directory of ours, whatever mode it came with.
fn enter(tree: &Root, path: &[u8]) -> io::Result<OwnedFd> {
    let dir = match tree.open_dir(path) {
        Err(e) if e.raw_os_error() == Some(libc::EACCES) && !path.is_empty() => {
            let (above, name) = split(path);
            beneath::chmod_at(tree.open_dir(above)?, name, 0o700)?;
            tree.open_dir(path)?
        }
        other => other?,
    };
    let mode = beneath::stat(&dir)?.mode;
    if mode & 0o700 != 0o700 {
        beneath::chmod(&dir, mode | 0o700)?;
    }
    Ok(dir)
}

/// Moves `name`, also a directory that nobody may write to, whose parent is written in it.
fn put_back(from: &OwnedFd, name: &[u8], to: &OwnedFd) -> io::Result<()> {
    let rename = || beneath::move_new_at(from, name, to, name);
    match rename() {
        Err(e) if e.raw_os_error() == Some(libc::EACCES) => {
            let meta = beneath::stat_at(from, name)?;
            if meta.kind != DIRECTORY || meta.mode & 0o700 == 0o700 {
                return Err(e);
            }
            beneath::chmod_at(from, name, meta.mode | 0o700)?;
            let itself = beneath::open_dir_at(from, name)?;
            let done = rename();
            beneath::chmod(&itself, meta.mode)?;
            done
        }
        other => other,
    }
}

/// See `_core.pyi`.
#[pyfunction]
pub fn trash_list(py: Python<'_>, root: Vec<u8>, limit: usize) -> PyResult<Vec<Row>> {
    Ok(py.detach(|| list(&root, limit))?)
}

fn list(root: &[u8], limit: usize) -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let Some((_, trash, batches)) = open(root)? else {
        return Ok(rows);
    };
    for batch in batches.iter().rev() {
        let tree = Root::from_fd(trash.open_dir(batch)?);
        let mut waiting = vec![Vec::new()];
        while let Some(path) = waiting.pop() {
            // What cannot be looked into is listed as it is.
            let dir = tree.open_dir(&path).and_then(|fd| Ok((entries(&fd)?, fd)));
            let (names, fd) = match dir {
                Ok((names, fd)) if !names.is_empty() => (names, fd),
                _ if path.is_empty() => continue,
                _ => {
                    rows.push((batch.clone(), path, 0, true));
                    continue;
                }
            };
            for name in names.iter().rev() {
                let Ok(meta) = beneath::stat_at(&fd, name) else {
                    continue;
                };
                let inner = join(&path, name);
                if meta.kind == DIRECTORY {
                    waiting.push(inner);
                } else {
                    rows.push((batch.clone(), inner, meta.size, false));
                }
                if rows.len() >= limit {
                    return Ok(rows);
                }
            }
        }
    }
    Ok(rows)
}

/// See `_core.pyi`.
#[pyfunction]
pub fn trash_restore(py: Python<'_>, root: Vec<u8>, path: Vec<u8>, batch: Vec<u8>) -> PyResult<(u64, Vec<Vec<u8>>)> {
    if !path.split(|&b| b == b'/').all(is_component) || !(batch.is_empty() || is_batch(&batch)) {
        return Err(PyValueError::new_err("a path below the root, and a batch"));
    }
    Ok(py.detach(|| restore(&root, &path, &batch))?)
}

fn restore(root: &[u8], path: &[u8], wanted: &[u8]) -> io::Result<(u64, Vec<Vec<u8>>)> {
    let (mut restored, mut taken) = (0, Vec::new());
    let Some((root, trash, batches)) = open(root)? else {
        return Ok((0, taken));
    };
    let (above, name) = split(path);
    for batch in batches.iter().rev().filter(|b| wanted.is_empty() || *b == wanted) {
        let tree = Root::from_fd(trash.open_dir(batch)?);
        if tree
            .open_dir(above)
            .and_then(|dir| beneath::stat_at(&dir, name))
            .is_err()
        {
            continue;
        }
        let mut waiting = vec![path.to_vec()];
        while let Some(path) = waiting.pop() {
            let (above, name) = split(&path);
            let from = enter(&tree, above)?;
            let to = place(&root, above)?;
            match put_back(&from, name, &to) {
                Ok(()) => restored += 1,
                Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {
                    let both = beneath::stat_at(&from, name)?.kind == DIRECTORY
                        && beneath::stat_at(&to, name)?.kind == DIRECTORY;
                    if both {
                        let names = entries(&enter(&tree, &path)?)?;
                        waiting.extend(names.iter().rev().map(|name| join(&path, name)));
                    } else {
                        taken.push(path);
                    }
                }
                Err(e) => return Err(e),
            }
        }
        prune(&trash, batch, path);
        break;
    }
    Ok((restored, taken))
}

/// The directory `path` below the root, made where it is missing.
fn place(root: &Root, path: &[u8]) -> io::Result<OwnedFd> {
    let mut made = root.open_dir(b"")?;
    for name in path.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
        match beneath::mkdir_at(&made, name) {
            Err(e) if e.raw_os_error() != Some(libc::EEXIST) => return Err(e),
            _ => made = beneath::open_dir_at(&made, name)?,
        }
    }
    Ok(made)
}

/// Removes the directories of a batch that are empty now: at `path`, and those that it is in.
fn prune(trash: &Root, batch: &[u8], path: &[u8]) {
    let mut path = join(batch, path);
    while !path.is_empty() {
        let (above, name) = split(&path);
        if trash
            .open_dir(above)
            .and_then(|dir| beneath::rmdir_at(&dir, name))
            .is_err()
            && trash.open_dir(&path).is_ok()
        {
            return;
        }
        path = above.to_vec();
    }
}

/// See `_core.pyi`.
#[pyfunction]
pub fn trash_empty(py: Python<'_>, root: Vec<u8>, before: Vec<u8>, limit: u64) -> PyResult<(u64, bool)> {
    Ok(py.detach(|| empty(&root, &before, limit))?)
}

fn empty(root: &[u8], before: &[u8], limit: u64) -> io::Result<(u64, bool)> {
    let mut removed = 0;
    let Some((root, trash, batches)) = open(root)? else {
        return Ok((0, true));
    };
    let mut left = batches.len();
    for batch in batches.iter().filter(|batch| before.is_empty() || &batch[..] < before) {
        if !remove_tree(trash.fd(), batch, limit, &mut removed)? {
            return Ok((removed, false));
        }
        left -= 1;
    }
    if left == 0 {
        let _ = beneath::rmdir_at(root.fd(), TRASH); // somebody may have put something of theirs there
    }
    Ok((removed, true))
}

/// Removes the directory `name` in `dir` with all that is in it; false: `limit` entries were removed before that. No
/// handle is kept but of the directory that is being emptied.
fn remove_tree(dir: impl AsFd, name: &[u8], limit: u64, removed: &mut u64) -> io::Result<bool> {
    let tree = Root::from_fd(beneath::open_dir_at(&dir, name)?);
    let mut waiting = vec![Vec::new()];
    while let Some(path) = waiting.last().cloned() {
        let fd = enter(&tree, &path)?;
        let depth = waiting.len();
        for name in entries(&fd)? {
            if *removed >= limit {
                return Ok(false);
            }
            if beneath::stat_at(&fd, &name)?.kind == DIRECTORY {
                waiting.push(join(&path, &name));
            } else {
                beneath::unlink_at(&fd, &name)?;
                *removed += 1;
            }
        }
        if waiting.len() == depth {
            waiting.pop();
            let (above, last) = split(&path);
            match path.is_empty() {
                true => beneath::rmdir_at(&dir, name)?,
                false => beneath::rmdir_at(tree.open_dir(above)?, last)?,
            }
            *removed += 1;
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_known_by_their_names() {
        assert!(is_batch(b"20261121-185500-0123abcd"));
        for name in [
            &b"20261121-185500"[..],
            b"20261121-185500-0123abcg",
            b"20261121_185500-0123abcd",
            b"2026112a-185500-0123abcd",
            b"",
        ] {
            assert!(!is_batch(name), "{name:?}");
        }
    }
}
