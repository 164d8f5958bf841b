//! The sender: lists one source tree, and sends what the receiver wants of it. The contract is in `_core.pyi`.
//!
//! Nothing here waits: calls put into or take out of what the engine's threads share, without the interpreter's lock.

pub mod basis;
pub mod counters;
pub mod engine;
pub mod jobs;
pub mod large;
pub mod link;
mod lister;
pub mod listing;
pub mod memo;
pub mod names;
pub mod origins;
pub mod queue;
pub mod read;
pub mod source;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyBytes, PyDict};

use crate::buffer::{self, Buffer};
use crate::filter::Filter;
use crate::tree::{PyTree, looks};
use crate::wake::Wake;
use crate::walk::{Hashes, Options};
use crate::{EngineClosed, PeerViolation};

use engine::{Engine, Settings};
use link::Compress;
use listing::Next;
use source::Source;

/// How the peer broke the protocol, without bytes of its own.
pub type Violation = &'static str;

type Event = (&'static str, u32, Option<Buffer>);
type Failure<'py> = (&'static str, Bound<'py, PyBytes>, i32, String);

/// Lists one source tree, and sends what the receiver wants of it.
#[pyclass(frozen, module = "agentd._core")]
pub struct Sender {
    engine: Arc<Engine>,
    started: AtomicBool,
}

impl Sender {
    fn running(&self) -> PyResult<&Arc<Engine>> {
        if self.engine.is_stopped() {
            return Err(EngineClosed::new_err("the sender was closed, or failed"));
        }
        Ok(&self.engine)
    }

    /// Hands a payload of the peer to the engine, which a violation ends.
    fn untrusted(
        &self,
        py: Python<'_>,
        mut payload: PyRefMut<'_, Buffer>,
        take: impl FnOnce(&Arc<Engine>, &[u8]) -> Result<(), Violation> + Send,
    ) -> PyResult<()> {
        let engine = self.running()?;
        let memory = payload.take_memory()?;
        drop(payload);
        py.detach(|| {
            let result = take(engine, &memory);
            buffer::give(memory);
            result.inspect_err(|violation| engine.violated(violation))
        })
        .map_err(PeerViolation::new_err)
    }
}

#[pymethods]
impl Sender {
    #[new]
    #[pyo3(signature = (
        root, *, filters, hashes, owners, hard_links, threads, batch_max, list_window, data_window, compress, far,
        wake_fd,
        profile = false, tree = None, looks = None, since = None, confine = true, ahead = false
    ))]
    #[allow(clippy::too_many_arguments, reason = "keywords of the Python constructor")]
    fn new(
        py: Python<'_>,
        root: Vec<u8>,
        filters: Vec<Vec<u8>>,
        hashes: bool,
        owners: bool,
        hard_links: bool,
        threads: usize,
        batch_max: usize,
        list_window: u64,
        data_window: u64,
        compress: &str,
        far: bool,
        wake_fd: i32,
        profile: bool,
        tree: Option<PyRef<'_, PyTree>>,
        looks: Option<&Bound<'_, PyAny>>,
        since: Option<u64>,
        confine: bool,
        ahead: bool,
    ) -> PyResult<Self> {
        if threads == 0 || batch_max == 0 {
            return Err(PyValueError::new_err("threads and batch_max are at least 1"));
        }
        let looks = looks.map(buffer::copy).transpose()?;
        if let Some(looks) = &looks {
            looks::each_untrusted(looks).map_err(PyValueError::new_err)?;
        }
        let tree = tree.and_then(|tree| tree.tree().ok()); // a closed one is none
        let settings = Settings {
            walk: Options {
                filter: Filter::new(&filters).map_err(|e| PyValueError::new_err(e.message()))?,
                hashes,
                known: tree.clone().map(|tree| tree as Arc<dyn Hashes>),
            },
            looks,
            tree,
            since,
            owners,
            hard_links,
            threads,
            batch_max,
            windows: (list_window, data_window),
            profile,
            compress: Compress::parse(compress).ok_or_else(|| PyValueError::new_err("compress"))?,
            far,
            confine,
            ahead,
        };
        let source = py.detach(|| Source::open(&root))?;
        Ok(Self {
            engine: Arc::new(Engine::new(source, settings, Wake::new(wake_fd))),
            started: AtomicBool::new(false),
        })
    }

    fn start(&self, py: Python<'_>) -> PyResult<()> {
        let engine = self.running()?;
        if self.started.swap(true, Ordering::Relaxed) {
            return Err(PyRuntimeError::new_err("the sender was started before"));
        }
        Ok(py.detach(|| engine.start())?)
    }

    fn next_control(&self, py: Python<'_>) -> PyResult<Option<Event>> {
        let engine = self.running()?;
        Ok(py.detach(|| engine.next_control()).map(|next| match next {
            Next::Chunk(n, payload) => ("list", n, Some(Buffer::from_vec(payload))),
            Next::End => ("list-end", 0, None),
        }))
    }

    fn next_data(&self, py: Python<'_>) -> PyResult<Option<Event>> {
        let engine = self.running()?;
        let payload = py.detach(|| engine.next_data());
        Ok(payload.map(|payload| ("data", 0, Some(Buffer::from_vec(payload)))))
    }

    fn list_total<'py>(&self, py: Python<'py>) -> PyResult<(u32, u64, Bound<'py, PyBytes>)> {
        match self.engine.listing.total() {
            Some((chunks, entries, hash)) => Ok((chunks, entries, PyBytes::new(py, &hash))),
            None => Err(PyRuntimeError::new_err("the list is not complete")),
        }
    }

    fn want_all(&self, py: Python<'_>) -> PyResult<()> {
        let engine = self.running()?;
        py.detach(|| engine.want_all());
        Ok(())
    }

    fn look_untrusted(&self, py: Python<'_>, payload: PyRefMut<'_, Buffer>) -> PyResult<()> {
        self.untrusted(py, payload, |engine, bytes| engine.look_untrusted(bytes))
    }

    fn want_untrusted(&self, py: Python<'_>, n: u32, payload: PyRefMut<'_, Buffer>) -> PyResult<()> {
        self.untrusted(py, payload, |engine, bytes| engine.want_untrusted(n, bytes))
    }

    fn basis_untrusted(&self, py: Python<'_>, payload: PyRefMut<'_, Buffer>) -> PyResult<()> {
        self.untrusted(py, payload, |engine, bytes| engine.basis_untrusted(bytes))
    }

    fn again_untrusted(&self, py: Python<'_>, payload: PyRefMut<'_, Buffer>) -> PyResult<()> {
        self.untrusted(py, payload, |engine, bytes| engine.again_untrusted(bytes))
    }

    fn ack_untrusted(&self, py: Python<'_>, payload: PyRefMut<'_, Buffer>) -> PyResult<()> {
        self.untrusted(py, payload, |engine, bytes| engine.ack_untrusted(bytes))
    }

    fn grant(&self, py: Python<'_>, list_window: u64, data_window: u64) -> PyResult<()> {
        let engine = self.running()?;
        py.detach(|| engine.grant(list_window, data_window));
        Ok(())
    }

    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        py.detach(|| self.engine.counted()).into_py_dict(py)
    }

    fn profile<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.engine.profile.rows().into_py_dict(py)
    }

    fn failure<'py>(&self, py: Python<'py>) -> Option<Failure<'py>> {
        let (code, path, errno, doing) = self.engine.failure()?;
        Some((code, PyBytes::new(py, &path), errno, doing))
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.engine.close());
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.engine.close();
    }
}
