//! Leaving Python for long work, and coming back for Ctrl-C and callbacks.

use std::panic::{catch_unwind, AssertUnwindSafe};

use diffusion_core::{Error, Result};
use pyo3::prelude::*;

use crate::error::{carry, to_py};

/// Run `work` without the GIL. A panic in it, always a bug of ours, becomes a RuntimeError and not a dead kernel.
pub fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> Result<T> + Send) -> PyResult<T> {
    let guarded = || {
        catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(Error::Runtime(format!("internal error in rust_diffusion, please report it: {text}")))
        })
    };
    py.allow_threads(guarded).map_err(to_py)
}

/// Back to Python from inside [`detached`]; an exception raised there travels through the core unchanged.
pub fn attached<T>(work: impl FnOnce(Python<'_>) -> PyResult<T>) -> Result<T> {
    Python::with_gil(work).map_err(carry)
}

/// Did the user press Ctrl-C or Stop? To be asked between steps.
pub fn check_signals() -> Result<()> {
    attached(|py| py.check_signals())
}
