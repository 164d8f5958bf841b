//! The receiver's face to Python: `_core.pyi`, `Receiver`.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict};

use super::conflict::OnConflict;
use super::durable::{Durable, Fsync};
use super::outbox::{Counters, Outbox};
use super::queue::{Input, Queue};
use super::trash::Trash;
use super::{Before, Options, Shared, apply};
use crate::beneath::{self, Given, Root, lock};
use crate::buffer::{self, Buffer};
use crate::filter::Filter;
use crate::profile::Profile;
use crate::temp::{self, Namer};
use crate::tree::PyTree;
use crate::wake::Wake;
use crate::{EngineClosed, PeerViolation};

/// A resident process stays polite, whatever it is asked for.
const THREADS_MAX: usize = 64;

/// See `_core.pyi`.
#[pyclass(module = "agentd._core")]
pub struct Receiver {
    shared: Arc<Shared>,
    /// The first LIST-END was handed in.
    ended: AtomicBool,
}

#[pymethods]
impl Receiver {
    #[new]
    #[pyo3(signature = (
        root, *, filters, delete, hashes, owner, group, hard_links, dry_run, itemize, force, max_delete, arrow, threads,
        delta_min, partial_min, list_window, data_window, temp_tag, wake_fd, profile = false, tree = None, since = None, partial = false,
        skip_first = false, on_conflict = "overwrite", confine = true, fsync = "never", delete_few = None, trash = None
    ))]
    #[allow(
        clippy::too_many_arguments,
        reason = "keyword arguments of one constructor; _core.pyi explains each"
    )]
    fn new(
        py: Python<'_>,
        root: Vec<u8>,
        filters: Vec<Vec<u8>>,
        delete: bool,
        hashes: bool,
        owner: bool,
        group: bool,
        hard_links: bool,
        dry_run: bool,
        itemize: bool,
        force: bool,
        max_delete: Option<u64>,
        arrow: &str,
        threads: usize,
        delta_min: u64,
        partial_min: u64,
        list_window: u64,
        data_window: u64,
        temp_tag: &str,
        wake_fd: i32,
        profile: bool,
        tree: Option<PyRef<'_, PyTree>>,
        since: Option<u64>,
        partial: bool,
        skip_first: bool,
        on_conflict: &str,
        confine: bool,
        fsync: &str,
        delete_few: Option<u64>,
        trash: Option<Vec<u8>>,
    ) -> PyResult<Self> {
        let filter = Filter::new(&filters).map_err(|e| PyValueError::new_err(e.message()))?;
        let arrow = *arrow.as_bytes().first().ok_or_else(|| PyValueError::new_err("arrow"))?;
        let namer = Namer::new(temp_tag).map_err(PyValueError::new_err)?;
        let options = Options {
            filter,
            delete,
            hashes,
            owner,
            group,
            hard_links,
            dry_run,
            itemize,
            force,
            max_delete,
            delete_few,
            arrow,
            delta_min,
            partial_min,
            partial,
            skip_first: partial && skip_first,
            on_conflict: OnConflict::new(on_conflict).ok_or_else(|| PyValueError::new_err("on_conflict"))?,
            fsync: Fsync::new(fsync).ok_or_else(|| PyValueError::new_err("fsync"))?,
            since,
            confine,
        };
        if trash.as_ref().is_some_and(|batch| !crate::trash::is_batch(batch)) {
            return Err(PyValueError::new_err("trash"));
        }
        let tree = tree.and_then(|tree| tree.tree().ok()); // a closed one is none
        let threads = threads.clamp(1, THREADS_MAX);
        let out = Outbox::new(Wake::new(wake_fd), list_window, data_window);
        py.detach(|| {
            let before = look(&root, options.partial)?;
            let empty = match &before {
                // A partial of the single file that is to come would not be asked for without a WANT.
                Before::Missing(parent, name) => !has_partial(parent, name, &namer),
                Before::Directory(_, empty) => *empty,
                Before::File(..) => false,
            };
            let shared = Arc::new_cyclic(|me| Shared {
                me: me.clone(),
                threads: Mutex::default(),
                wants_all: empty && !options.dry_run && !options.partial,
                privileged: rustix::process::geteuid().is_root(),
                groups: groups(),
                options,
                root_path: root,
                before,
                handles: OnceLock::new(),
                confinement: OnceLock::new(),
                single: OnceLock::new(),
                namer,
                tree,
                taken: Mutex::default(),
                granule: OnceLock::new(),
                durable: Durable::default(),
                queue: Queue::new(threads),
                out,
                counters: Counters::default(),
                profile: Profile::new(profile),
                pending: Mutex::default(),
                large: Mutex::new(HashMap::new()),
                dirs: Mutex::default(),
                fresh_open: AtomicU64::new(0),
                linked: Mutex::default(),
                asides: Mutex::default(),
                moved: Mutex::default(),
                replaced: AtomicU64::new(0),
                renamed: AtomicU64::new(0),
                held: AtomicBool::new(false),
                trash: trash.map(Trash::new),
                failure: Mutex::new(None),
                stop: AtomicBool::new(false),
                full: AtomicBool::new(false),
                full_errno: AtomicI32::new(libc::ENOSPC),
            });
            // Dropped when a thread cannot be started, it ends those that were.
            let receiver = Self {
                shared,
                ended: AtomicBool::new(false),
            };
            receiver.shared.start()?;
            Ok(receiver)
        })
    }

    /// What to tell the sender of the root: "missing" and "empty" stand for "send everything".
    #[getter]
    fn state(&self) -> &'static str {
        match (&self.shared.before, self.shared.wants_all) {
            (Before::File(..), _) => "file",
            (Before::Missing(..), true) => "missing",
            (Before::Directory(..), true) => "empty",
            _ => "directory",
        }
    }

    fn hold(&self) {
        self.shared.held.store(true, Ordering::Release);
    }

    fn list_untrusted(&self, py: Python<'_>, n: u32, payload: &mut Buffer) -> PyResult<()> {
        let data = self.accept(payload)?;
        py.detach(|| self.shared.queue.input(Input::Chunk(n, data)));
        Ok(())
    }

    fn list_end_untrusted(&self, py: Python<'_>, chunks: u32, entries: u64, hash: [u8; 32]) -> PyResult<()> {
        self.open()?;
        self.ended.store(true, Ordering::Release);
        py.detach(|| self.shared.queue.input(Input::End(chunks, entries, hash)));
        Ok(())
    }

    fn look(&self, py: Python<'_>, payload: &Bound<'_, PyAny>) -> PyResult<()> {
        self.open()?;
        if !self.shared.options.partial || self.ended.load(Ordering::Acquire) {
            return Err(PyValueError::new_err("a look in a session that has no more to list"));
        }
        let looks = buffer::copy(payload)?;
        py.detach(|| {
            self.shared.queue.look();
            self.shared.out.event(("look", 0, Some(looks)));
        });
        Ok(())
    }

    fn data_untrusted(&self, py: Python<'_>, payload: &mut Buffer) -> PyResult<()> {
        let data = self.accept(payload)?;
        py.detach(|| {
            let last = apply::last_chunk_untrusted(&data).map_err(|what| {
                self.shared.violation(what);
                PeerViolation::new_err(what)
            })?;
            let taken = self.shared.queue.data(last, data);
            self.shared.grow();
            taken.map_err(|what| {
                self.shared.violation(what);
                PeerViolation::new_err(what)
            })
        })
    }

    fn next_control(&self, py: Python<'_>) -> Option<(&'static str, u32, Option<Buffer>)> {
        let event = py.detach(|| self.shared.out.next(&self.shared.counters));
        event.map(|(tag, n, payload)| (tag, n, payload.map(Buffer::from_vec)))
    }

    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.shared.counters.all().into_py_dict(py)
    }

    fn profile<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.shared.profile.rows().into_py_dict(py)
    }

    fn failure(&self) -> Option<(&'static str, Vec<u8>, i32, String)> {
        lock(&self.shared.failure).clone()
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.stop());
    }
}

impl Receiver {
    fn open(&self) -> PyResult<()> {
        if self.shared.stopped() {
            return Err(EngineClosed::new_err("the receiver has ended"));
        }
        Ok(())
    }

    fn accept(&self, payload: &mut Buffer) -> PyResult<Vec<u8>> {
        self.open()?;
        payload.take_memory()
    }

    fn stop(&self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.queue.wake_all();
        self.shared.out.abandon();
        if self.shared.join() {
            self.shared.roll_back();
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What is at the destination's own path, which the user chose.
fn look(root: &[u8], partial: bool) -> io::Result<Before> {
    Ok(match beneath::given(root)? {
        Given::Directory(dir) => {
            let mut empty = !partial;
            if empty {
                // A handle of its own: reading a directory moves the handle's position.
                let names = beneath::open_dir_at(dir.fd(), b".")?;
                beneath::each_name(&names, |name| empty &= name == temp::TRASH)?;
            }
            Before::Directory(dir, empty)
        }
        Given::File(parent, name) => Before::File(parent, name),
        Given::Missing(parent, name) => Before::Missing(parent, name),
        Given::Other => return Err(io::Error::from_raw_os_error(libc::ENOTDIR)),
    })
}

fn has_partial(parent: &Root, name: &[u8], namer: &Namer) -> bool {
    let mut found = false;
    let looked = beneath::open_dir_at(parent.fd(), b".").and_then(|dir| {
        beneath::each_name(&dir, |n| {
            found |= namer.own(n).is_some_and(|(_, stem)| stem == temp::stem(name))
        })
    });
    looked.is_ok() && found
}

/// The groups that this process may give its files to.
fn groups() -> Vec<u32> {
    let mut groups = rustix::process::getgroups().unwrap_or_default();
    groups.push(rustix::process::getegid());
    groups.into_iter().map(rustix::process::Gid::as_raw).collect()
}
