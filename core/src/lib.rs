//! The work per file and per byte of syncctl, as the private extension `agentd._core`.
//!
//! `agentd/_core.pyi` is the contract. The crate decides nothing and speaks to no network.

use pyo3::prelude::*;

/// Registers everything that `_core.pyi` documents.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(version, module)?)?;
    Ok(())
}

/// The crate's version.
#[pyfunction]
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}
