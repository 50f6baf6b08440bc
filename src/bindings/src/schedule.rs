//! Noise schedules.

use diffusion_core::schedule::{self, COSINE_OFFSET, LINEAR_END, LINEAR_START};
use pyo3::prelude::*;

use crate::detach::detached;
use crate::tensor::to_python;

#[pyfunction]
#[pyo3(signature = (num_steps, s = COSINE_OFFSET))]
fn cosine_beta_schedule(py: Python<'_>, num_steps: i64, s: f64) -> PyResult<Bound<'_, PyAny>> {
    to_python(py, detached(py, || schedule::cosine_betas(num_steps, s))?)
}

#[pyfunction]
#[pyo3(signature = (num_steps, beta_start = LINEAR_START, beta_end = LINEAR_END))]
fn linear_beta_schedule(
    py: Python<'_>,
    num_steps: i64,
    beta_start: f64,
    beta_end: f64,
) -> PyResult<Bound<'_, PyAny>> {
    to_python(
        py,
        detached(py, || {
            schedule::linear_betas(num_steps, beta_start, beta_end)
        })?,
    )
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(cosine_beta_schedule, m)?)?;
    m.add_function(wrap_pyfunction!(linear_beta_schedule, m)?)
}
