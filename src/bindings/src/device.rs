//! Capture of an accelerator's work in an object of Python: torch has CUDA graphs there.

use diffusion_core::device::Graph;
use diffusion_core::Result;
use pyo3::prelude::*;

use crate::detach::attached;

/// An object with `begin() -> bool`, `end(whole) -> bool` and `replay()`.
pub struct PythonGraph(PyObject);

impl PythonGraph {
    pub fn boxed(object: PyObject) -> Box<dyn Graph + Send> {
        Box::new(Self(object))
    }
}

impl Graph for PythonGraph {
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
