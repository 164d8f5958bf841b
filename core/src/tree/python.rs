//! The tree's face to Python: `_core.pyi`, `Tree`.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict};

use super::{Tree, Trouble};
use crate::buffer::Buffer;
use crate::wake::Wake;
use crate::{EngineClosed, TreePaused};

/// A resident process stays polite, whatever it is asked for.
const THREADS_MAX: usize = 64;

/// See `_core.pyi`.
#[pyclass(name = "Tree", module = "agentd._core", frozen)]
pub struct PyTree {
    tree: Arc<Tree>,
}

impl PyTree {
    /// To share it with an engine.
    pub fn tree(&self) -> Arc<Tree> {
        Arc::clone(&self.tree)
    }
}

impl From<Trouble> for PyErr {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Io(e) => e.into(),
            Trouble::Paused(errno, why) => TreePaused::new_err((errno, why)),
            Trouble::Closed => EngineClosed::new_err("the tree was closed"),
        }
    }
}

#[pymethods]
impl PyTree {
    #[new]
    #[pyo3(signature = (root, *, filters, index, threads, watches_max, wake_fd))]
    fn new(
        py: Python<'_>,
        root: Vec<u8>,
        filters: Vec<Vec<u8>>,
        index: Option<Vec<u8>>,
        threads: usize,
        watches_max: usize,
        wake_fd: i32,
    ) -> PyResult<Self> {
        let threads = threads.clamp(1, THREADS_MAX);
        let wake = Wake::new(wake_fd);
        let tree = py.detach(|| Tree::new(root, &filters, index.as_deref(), threads, watches_max, wake));
        let tree = tree.map_err(|e| PyValueError::new_err(e.message()))?;
        Ok(Self { tree: Arc::new(tree) })
    }

    fn is_new(&self, py: Python<'_>) -> bool {
        py.detach(|| self.tree.is_new())
    }

    #[pyo3(signature = (*, hold = false))]
    fn refresh(&self, py: Python<'_>, hold: bool) -> PyResult<bool> {
        Ok(py.detach(|| self.tree.refresh(hold))?)
    }

    fn tick(&self, py: Python<'_>) -> u64 {
        py.detach(|| self.tree.tick())
    }

    fn changes(&self, py: Python<'_>, since: u64, limit: usize) -> Option<Buffer> {
        py.detach(|| self.tree.changes(since, limit)).map(Buffer::from_vec)
    }

    fn commit(&self, py: Python<'_>, key: [u8; 16], id: [u8; 16], tick: u64) {
        py.detach(|| self.tree.commit(key, id, tick));
    }

    fn baselines(&self, py: Python<'_>, key: [u8; 16]) -> Vec<([u8; 16], u64)> {
        py.detach(|| self.tree.baselines(&key))
    }

    fn save(&self, py: Python<'_>, path: Vec<u8>) -> PyResult<()> {
        Ok(py.detach(|| self.tree.save(&path))?)
    }

    fn notice(&self, py: Python<'_>) -> String {
        py.detach(|| self.tree.notice())
    }

    fn held(&self, py: Python<'_>) -> Option<f64> {
        py.detach(|| self.tree.held()).map(|due| due.as_secs_f64())
    }

    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        py.detach(|| self.tree.counters()).into_py_dict(py)
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.tree.close());
    }
}

impl Drop for PyTree {
    fn drop(&mut self) {
        self.tree.close();
    }
}
