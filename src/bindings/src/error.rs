//! The whole exception map, from the core's errors to Python's built-in exceptions.

use diffusion_core::Error;
use pyo3::exceptions::{
    PyFileNotFoundError, PyKeyboardInterrupt, PyMemoryError, PyOSError, PyRuntimeError, PyTypeError, PyValueError,
};
use pyo3::{PyErr, Python};

/// How libtorch, and C++ below it, say that there is no memory.
const LACKS_MEMORY: [&str; 3] = ["DefaultCPUAllocator", "out of memory", "bad_alloc"];

pub fn to_py(err: Error) -> PyErr {
    if let Error::Torch(_) = err {
        // What libtorch refused may be what Python code inside it raised (a hook, a tensor subclass): that one counts.
        if let Some(raised) = Python::with_gil(PyErr::take) {
            return raised;
        }
    }
    match err {
        Error::Value(text) => PyValueError::new_err(text),
        Error::Type(text) => PyTypeError::new_err(text),
        Error::NotFound(text) => PyFileNotFoundError::new_err(text),
        Error::Io(text) => PyOSError::new_err(text),
        Error::Runtime(text) => PyRuntimeError::new_err(text),
        Error::Memory(text) => PyMemoryError::new_err(text),
        Error::Torch(text) if LACKS_MEMORY.iter().any(|words| text.contains(words)) => PyMemoryError::new_err(text),
        Error::Torch(text) => PyRuntimeError::new_err(text),
        Error::Interrupted => PyKeyboardInterrupt::new_err(()),
        Error::Callback(payload) => match payload.downcast::<PyErr>() {
            Ok(err) => *err,
            Err(_) => PyRuntimeError::new_err("a callback failed"),
        },
    }
}

/// A Python exception on its way through the core.
pub fn carry(err: PyErr) -> Error {
    Error::Callback(Box::new(err))
}
