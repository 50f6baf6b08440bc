//! The whole exception map, from the core's errors to Python's built-in exceptions.

use diffusion_core::Error;
use pyo3::exceptions::{
    PyFileNotFoundError, PyKeyboardInterrupt, PyMemoryError, PyOSError, PyRuntimeError, PyTypeError, PyValueError,
};
use pyo3::PyErr;

pub fn to_py(err: Error) -> PyErr {
    match err {
        Error::Value(text) => PyValueError::new_err(text),
        Error::Type(text) => PyTypeError::new_err(text),
        Error::NotFound(text) => PyFileNotFoundError::new_err(text),
        Error::Io(text) => PyOSError::new_err(text),
        Error::Runtime(text) => PyRuntimeError::new_err(text),
        Error::Torch(text) if text.contains("DefaultCPUAllocator") || text.contains("out of memory") => {
            PyMemoryError::new_err(text)
        }
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
