//! Pooled payload memory that Python and the engines hand to each other without copying.

use std::ffi::{c_int, c_void};
use std::sync::Mutex;

use pyo3::exceptions::{PyBufferError, PyMemoryError};
use pyo3::ffi;
use pyo3::prelude::*;

/// Freed buffers of at least this size are worth keeping: smaller ones cost the allocator nothing.
const POOL_MIN: usize = 64 << 10;
/// The pool keeps at most this many bytes; an agent that comes to rest gives them back, too (`release_memory`).
const POOL_MAX: usize = 16 << 20;

static POOL: Mutex<Pool> = Mutex::new(Pool {
    free: Vec::new(),
    bytes: 0,
});

struct Pool {
    free: Vec<Vec<u8>>,
    bytes: usize,
}

/// An empty vector with room for `capacity` bytes, from the pool where it has one.
pub fn take(capacity: usize) -> Vec<u8> {
    let mut memory = pooled(capacity);
    memory.clear();
    memory
}

/// `len` bytes that the caller overwrites: zeros, or what an earlier user left in them. Clearing them first would cost a
/// tenth of what is done with a payload.
pub fn filled(len: usize) -> Vec<u8> {
    let mut memory = pooled(len);
    memory.resize(len, 0);
    memory
}

fn pooled(capacity: usize) -> Vec<u8> {
    if capacity >= POOL_MIN
        && let Ok(mut pool) = POOL.lock()
        && let Some(at) = pool
            .free
            .iter()
            .position(|v| v.capacity() >= capacity && v.capacity() / 4 <= capacity)
    {
        let found = pool.free.swap_remove(at);
        pool.bytes -= found.capacity();
        return found;
    }
    Vec::with_capacity(capacity)
}

/// Returns a vector's memory to the pool.
pub fn give(memory: Vec<u8>) {
    let capacity = memory.capacity();
    if capacity >= POOL_MIN
        && let Ok(mut pool) = POOL.lock()
        && pool.bytes + capacity <= POOL_MAX
    {
        pool.bytes += capacity;
        pool.free.push(memory);
    }
}

/// Gives what is pooled, and what the allocator keeps in reserve, back to the system: glibc returns the ends of its arenas
/// by itself, and only beyond a bound that grows with what was freed before (mallopt(3), M_TRIM_THRESHOLD).
#[pyfunction]
pub fn release_memory(py: Python<'_>) {
    py.detach(|| {
        let freed = POOL.lock().map(|mut pool| {
            pool.bytes = 0;
            std::mem::take(&mut pool.free)
        });
        drop(freed);
        #[cfg(target_env = "gnu")]
        // SAFETY: it takes no pointer, and the locks of one arena at a time.
        unsafe {
            libc::malloc_trim(0);
        }
    });
}

/// A payload: writable memory with the buffer protocol. See `_core.pyi`.
#[pyclass(module = "agentd._core")]
pub struct Buffer {
    memory: Vec<u8>,
    /// Live memoryviews. The memory must neither move nor go while there is one.
    exports: usize,
}

impl Buffer {
    /// A buffer for Python over memory that an engine filled.
    pub fn from_vec(memory: Vec<u8>) -> Self {
        Self { memory, exports: 0 }
    }

    /// Takes the memory out, leaving the buffer empty.
    pub fn take_memory(&mut self) -> PyResult<Vec<u8>> {
        if self.exports > 0 {
            return Err(PyBufferError::new_err("a memoryview of this buffer is still alive"));
        }
        Ok(std::mem::take(&mut self.memory))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        give(std::mem::take(&mut self.memory));
    }
}

/// A copy of what a Buffer or bytes hold.
pub fn copy(payload: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    match payload.cast::<Buffer>() {
        Ok(buffer) => Ok(buffer.borrow().memory.clone()),
        Err(_) => payload.extract(),
    }
}

#[pymethods]
impl Buffer {
    #[new]
    fn new(size: usize) -> PyResult<Self> {
        let mut memory = pooled(size);
        if memory
            .try_reserve_exact(size.saturating_sub(memory.capacity()))
            .is_err()
        {
            return Err(PyMemoryError::new_err("no memory for a payload"));
        }
        memory.resize(size, 0);
        Ok(Self::from_vec(memory))
    }

    fn __len__(&self) -> usize {
        self.memory.len()
    }

    /// # Safety
    /// Called by the interpreter alone, with a valid `view`.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let (pointer, len) = {
            let mut this = slf.borrow_mut();
            this.exports += 1;
            (this.memory.as_mut_ptr(), this.memory.len())
        };
        // SAFETY: `view` is valid by the contract above. The memory stays where it is until `__releasebuffer__`
        // brings `exports` back to 0, since every path that moves or frees it checks `exports` (take_memory) or runs
        // when no reference, and so no view, is left (drop). Readers and writers of it hold the GIL or the only view.
        let filled = unsafe {
            ffi::PyBuffer_FillInfo(
                view,
                slf.as_ptr(),
                pointer.cast::<c_void>(),
                len as ffi::Py_ssize_t,
                0,
                flags,
            )
        };
        if filled != 0 {
            slf.borrow_mut().exports -= 1;
            return Err(PyErr::fetch(slf.py()));
        }
        Ok(())
    }

    /// # Safety
    /// Called by the interpreter alone, once for each successful `__getbuffer__`.
    unsafe fn __releasebuffer__(&mut self, _view: *mut ffi::Py_buffer) {
        self.exports -= 1;
    }
}
