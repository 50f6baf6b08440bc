//! Recording of an accelerator's work by an object of Python: torch has CUDA graphs there.

use diffusion_core::graph::Recorder;
use diffusion_core::Result;
use pyo3::prelude::*;

use crate::detach::attached;

/// An object with `begin() -> bool`, `end(whole) -> bool` and `replay()`.
pub struct PythonRecorder(PyObject);

impl PythonRecorder {
    pub fn boxed(object: PyObject) -> Box<dyn Recorder + Send> {
        Box::new(Self(object))
    }
}

impl Recorder for PythonRecorder {
    fn begin(&mut self) -> Result<bool> {
        attached(|py| self.0.call_method0(py, "begin")?.extract(py))
    }

    fn end(&mut self, whole: bool) -> Result<bool> {
        attached(|py| self.0.call_method1(py, "end", (whole,))?.extract(py))
    }

    fn replay(&mut self) -> Result<()> {
        attached(|py| self.0.call_method0(py, "replay").map(|_| ()))
    }
}
