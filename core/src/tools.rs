//! Small services for the agent that are not an engine's.

use std::io;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::beneath::{self, Given, Handles, Root, join};
use crate::filter::{Filter, FilterError};
use crate::list::DIRECTORY;
use crate::temp::{self, Kind, Namer, TRASH};
use crate::tree::root::Identity;

/// Code names in the order of docs/protocol.md, PROBLEMS.
const PROBLEMS: [&str; 14] = [
    "vanished",
    "changed",
    "unreadable",
    "unreadable-directory",
    "write",
    "verify",
    "in-the-way",
    "not-deleted",
    "metadata",
    "name",
    "special",
    "changed-here",
    "held",
    "twin",
];

/// PROBLEMS as (path, code, errno).
#[pyfunction]
pub fn unpack_problems_untrusted(
    py: Python<'_>,
    payload: &Bound<'_, PyAny>,
) -> PyResult<Vec<(Vec<u8>, &'static str, i32)>> {
    let bytes: Vec<u8> = match payload.cast::<crate::buffer::Buffer>() {
        Ok(buffer) => buffer.borrow_mut().take_memory()?,
        Err(_) => payload.extract()?,
    };
    let problems = py.detach(|| crate::receiver::unpack_problems_untrusted(&bytes));
    let problems = problems.map_err(crate::PeerViolation::new_err)?;
    Ok(problems
        .into_iter()
        .map(|(path, code, errno)| (path, PROBLEMS[code as usize - 1], errno))
        .collect())
}

/// Whether `filters` leave out `path`, or a directory that it is in.
#[pyfunction]
pub fn excluded(py: Python<'_>, filters: Vec<Vec<u8>>, path: Vec<u8>, directory: bool) -> PyResult<bool> {
    py.detach(|| {
        let filter = Filter::new(&filters).map_err(FilterError::message)?;
        let above = path
            .iter()
            .enumerate()
            .filter_map(|(i, &b)| (b == b'/').then_some(&path[..i]));
        Ok(above.into_iter().any(|dir| filter.excludes(dir, true)) || filter.excludes(&path, directory))
    })
    .map_err(|what: &str| PyValueError::new_err(what.to_owned()))
}

/// The ABI of a Landlock that holds, or 0.
#[pyfunction]
pub fn landlock_abi(py: Python<'_>) -> u32 {
    py.detach(crate::landlock::abi)
}

/// What the directory at `path` is known by as long as it is the same one: file system, inode and time of birth.
#[pyfunction]
pub fn root_identity(py: Python<'_>, path: Vec<u8>) -> PyResult<Vec<u8>> {
    Ok(py
        .detach(|| Root::open(&path).and_then(|root| Identity::of(&root)))?
        .to_bytes()
        .to_vec())
}

/// BLAKE3 of a regular file.
#[pyfunction]
pub fn hash_file(py: Python<'_>, path: Vec<u8>) -> PyResult<[u8; 32]> {
    Ok(py.detach(|| -> io::Result<[u8; 32]> {
        let (parent, name) = beneath::split(&path);
        let parent = Root::open(if parent.is_empty() { b"." } else { parent })?;
        let (file, _) = beneath::open_read_at(parent.fd(), name)?;
        beneath::hash_file(&file, || false)
    })?)
}

/// Removes what an agent's killed sessions left below `root`, or beside it when it is a file: temporary files go,
/// partials of at least `partial_min` bytes stay, what was moved aside is put back where its place is free.
/// How many names were dealt with. Raises OSError where the file system fails, or may not be written: it is not done then.
#[pyfunction]
pub fn sweep(py: Python<'_>, root: Vec<u8>, temp_tag: &str, partial_min: u64) -> PyResult<u64> {
    let namer = Namer::new(temp_tag).map_err(PyValueError::new_err)?;
    Ok(py.detach(|| sweep_tree(&root, &namer, partial_min))?)
}

fn sweep_tree(root: &[u8], namer: &Namer, partial_min: u64) -> io::Result<u64> {
    let (tree, name) = match beneath::given(root)? {
        Given::Directory(tree) => {
            let tree = Handles::new(tree);
            let mut swept = Ok(0);
            let mut waiting = vec![Vec::new()];
            while let Some(path) = waiting.pop() {
                let done = match sweep_directory(&tree, &path, namer, partial_min, None, &mut waiting) {
                    // What cannot be entered holds nothing that this user's agent left.
                    Err(e) if !is_failing(&e) => continue,
                    done => done,
                };
                swept = swept.and_then(|n| Ok(n + done?));
            }
            return swept;
        }
        Given::File(dir, name) | Given::Missing(dir, name) => (dir, name),
        Given::Other => return Ok(0),
    };
    let tree = Handles::new(tree);
    sweep_directory(&tree, b"", namer, partial_min, Some(temp::stem(&name)), &mut Vec::new())
}

fn sweep_directory(
    tree: &Handles,
    path: &[u8],
    namer: &Namer,
    partial_min: u64,
    only: Option<&[u8]>,
    waiting: &mut Vec<Vec<u8>>,
) -> io::Result<u64> {
    let dir = tree.own(path)?;
    let mut names = Vec::new();
    beneath::each_name(&dir, |name| names.push(name.to_vec()))?;
    let mut swept = 0;
    for name in names.iter().filter(|name| *name != TRASH) {
        let Ok(meta) = beneath::stat_at(&dir, name) else {
            continue;
        };
        let done = match namer
            .own_in(&dir, name)
            .filter(|(_, stem)| only.is_none_or(|only| only == *stem))
        {
            Some((Kind::Temp, _)) if meta.size >= partial_min => continue,
            Some((Kind::Temp, _)) => beneath::unlink_at(&dir, name),
            Some((Kind::Fresh, _)) => beneath::remove_flat_at(&dir, name),
            Some((Kind::Aside, stem)) => beneath::rename_new_at(&dir, name, stem),
            None => {
                if meta.kind == DIRECTORY && only.is_none() {
                    waiting.push(join(path, name));
                }
                continue;
            }
        };
        match done {
            Ok(()) => swept += 1,
            Err(e) if is_failing(&e) => return Err(e),
            Err(_) => {}
        }
    }
    Ok(swept)
}

/// Whether it is the file system's trouble, which may pass: what could not be removed is still to be.
fn is_failing(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EIO | libc::EROFS))
}
