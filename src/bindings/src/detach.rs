//! Leaving Python for long work, and coming back for Ctrl-C and callbacks.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use diffusion_core::{Error, Result};
use pyo3::prelude::*;

use crate::error::{carry, to_py};

/// How often signals are looked for while Python is not called for anything else.
pub const SIGNALS_EVERY: Duration = Duration::from_millis(50);
/// Ten times a second is as fast as anyone can read a bar.
pub const SHOW_EVERY: Duration = Duration::from_millis(100);

/// How often [`attached`] has gone back to Python in this process.
static CALLS: AtomicU64 = AtomicU64::new(0);

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
    CALLS.fetch_add(1, Ordering::Relaxed);
    Python::with_gil(work).map_err(carry)
}

/// How often the engine has called back into Python since it was loaded, for whatever reason.
#[pyfunction]
pub fn python_calls() -> u64 {
    CALLS.load(Ordering::Relaxed)
}

/// Says when it is time again.
pub struct Every {
    period: Duration,
    last: Instant,
}

impl Every {
    /// The first time is a period from now.
    pub fn new(period: Duration) -> Self {
        Self { period, last: Instant::now() }
    }

    pub fn is_due(&mut self) -> bool {
        let due = self.last.elapsed() >= self.period;
        if due {
            self.last = Instant::now();
        }
        due
    }
}

/// Did the user press Ctrl-C or Stop? To be asked between steps.
pub fn check_signals() -> Result<()> {
    attached(|py| py.check_signals())
}
