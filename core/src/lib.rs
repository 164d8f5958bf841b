//! The work per file and per byte of syncctl, as the private extension `agentd._core`.
//!
//! `agentd/_core.pyi` is the contract. The crate decides nothing and speaks to no network.

use pyo3::prelude::*;

pub mod beneath;
pub mod buffer;
pub mod compress;
pub mod delta;
mod failpoint;
pub mod filter;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzzed;
pub mod holes;
pub mod landlock;
pub mod list;
pub mod piece;
pub mod profile;
mod receiver;
pub mod record;
pub mod rolling;
mod rw;
pub mod scan;
pub mod selftest;
pub mod sender;
pub mod signature;
pub mod temp;
mod tools;
mod trash;
pub mod tree;
pub mod wake;
pub mod walk;

pyo3::create_exception!(
    agentd._core,
    PeerViolation,
    pyo3::exceptions::PyException,
    "The peer broke the protocol."
);
pyo3::create_exception!(
    agentd._core,
    EngineClosed,
    pyo3::exceptions::PyException,
    "The engine was closed, or failed before."
);
pyo3::create_exception!(
    agentd._core,
    TreePaused,
    pyo3::exceptions::PyOSError,
    "The root is gone, or not what it was: to go on would be to delete."
);

/// Registers everything that `_core.pyi` documents.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("PeerViolation", module.py().get_type::<PeerViolation>())?;
    module.add("EngineClosed", module.py().get_type::<EngineClosed>())?;
    module.add("TreePaused", module.py().get_type::<TreePaused>())?;
    module.add_class::<buffer::Buffer>()?;
    module.add_function(wrap_pyfunction!(buffer::release_memory, module)?)?;
    module.add_class::<receiver::Receiver>()?;
    module.add_function(wrap_pyfunction!(tools::unpack_problems_untrusted, module)?)?;
    module.add_function(wrap_pyfunction!(tools::sweep, module)?)?;
    module.add_function(wrap_pyfunction!(tools::excluded, module)?)?;
    module.add_function(wrap_pyfunction!(tools::hash_file, module)?)?;
    module.add_function(wrap_pyfunction!(tools::landlock_abi, module)?)?;
    module.add_function(wrap_pyfunction!(tools::root_identity, module)?)?;
    module.add_function(wrap_pyfunction!(trash::trash_list, module)?)?;
    module.add_function(wrap_pyfunction!(trash::trash_restore, module)?)?;
    module.add_function(wrap_pyfunction!(trash::trash_empty, module)?)?;
    module.add_class::<sender::Sender>()?;
    module.add_class::<tree::PyTree>()?;
    module.add_function(wrap_pyfunction!(selftest::selftest, module)?)?;
    module.add_function(wrap_pyfunction!(version, module)?)?;
    Ok(())
}

/// The crate's version.
#[pyfunction]
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}
