//! The tree's face to Python: `_core.pyi`, `Tree`.

use std::sync::{Arc, Mutex};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict};

use super::{Recalled, Tree, Trouble};
use crate::beneath::lock;
use crate::buffer::Buffer;
use crate::wake::Wake;
use crate::{EngineClosed, TreePaused};

/// A resident process stays polite, whatever it is asked for.
const THREADS_MAX: usize = 64;

/// See `_core.pyi`.
#[pyclass(name = "Tree", module = "agentd._core", frozen)]
pub struct PyTree {
    /// None: closed. Its memory and its handles go then, not when Python finds that nobody refers to this.
    tree: Mutex<Option<Arc<Tree>>>,
}

impl PyTree {
    /// To share it with an engine.
    pub fn tree(&self) -> PyResult<Arc<Tree>> {
        Ok(lock(&self.tree).clone().ok_or(Trouble::Closed)?)
    }

    fn shut(&self) {
        let tree = lock(&self.tree).take();
        if let Some(tree) = tree {
            tree.close();
        }
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
        Ok(Self {
            tree: Mutex::new(Some(Arc::new(tree))),
        })
    }

    fn is_new(&self, py: Python<'_>) -> PyResult<bool> {
        let tree = self.tree()?;
        Ok(py.detach(|| tree.is_new()))
    }

    #[pyo3(signature = (*, hold = false, sweep = 2048))]
    fn refresh(&self, py: Python<'_>, hold: bool, sweep: usize) -> PyResult<bool> {
        let tree = self.tree()?;
        Ok(py.detach(|| tree.refresh(hold, sweep))?)
    }

    fn at_rest(&self, py: Python<'_>) -> PyResult<bool> {
        let tree = self.tree()?;
        Ok(py.detach(|| tree.at_rest()))
    }

    fn tick(&self, py: Python<'_>) -> PyResult<u64> {
        let tree = self.tree()?;
        Ok(py.detach(|| tree.tick()))
    }

    fn changes(&self, py: Python<'_>, since: u64, limit: usize) -> PyResult<Option<Buffer>> {
        let tree = self.tree()?;
        Ok(py.detach(|| tree.changes(since, limit)).map(Buffer::from_vec))
    }

    fn commit(&self, py: Python<'_>, key: [u8; 16], id: [u8; 16], tick: u64) -> PyResult<()> {
        let tree = self.tree()?;
        py.detach(|| tree.commit(key, id, tick));
        Ok(())
    }

    fn baselines(&self, py: Python<'_>, key: [u8; 16]) -> PyResult<Vec<([u8; 16], u64)>> {
        let tree = self.tree()?;
        Ok(py.detach(|| tree.baselines(&key)))
    }

    fn recall(&self, py: Python<'_>, key: [u8; 16]) -> PyResult<Option<Recalled>> {
        let tree = self.tree()?;
        Ok(py.detach(|| tree.recall(&key)))
    }

    fn save(&self, py: Python<'_>, path: Vec<u8>) -> PyResult<()> {
        let tree = self.tree()?;
        Ok(py.detach(|| tree.save(&path))?)
    }

    fn notice(&self, py: Python<'_>) -> PyResult<String> {
        let tree = self.tree()?;
        Ok(py.detach(|| tree.notice()))
    }

    fn held(&self, py: Python<'_>) -> PyResult<Option<f64>> {
        let tree = self.tree()?;
        Ok(py.detach(|| tree.held()).map(|due| due.as_secs_f64()))
    }

    fn overflows(&self, py: Python<'_>) -> PyResult<u64> {
        let tree = self.tree()?;
        Ok(py.detach(|| tree.overflows()))
    }

    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let tree = self.tree()?;
        py.detach(|| tree.counters()).into_py_dict(py)
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.shut());
    }
}

impl Drop for PyTree {
    fn drop(&mut self) {
        self.shut();
    }
}
