//! Noise schedules.

use diffusion_core::schedule::{self, COSINE_OFFSET, LINEAR_END, LINEAR_START};
use pyo3::prelude::*;

use crate::detach::detached;
use crate::tensor::to_python;

/// Compute the cosine noise schedule (Nichol and Dhariwal 2021, equation 17).
///
/// With f(x) = cos^2(((x / T + s) / (1 + s)) * pi / 2) for x = 0..T and abar = f / f(0), beta_k is
/// 1 - abar_{k+1} / abar_k, clamped to [1e-5, 0.999]; all in float32.
///
/// Parameters
/// ----------
/// num_steps : int
///     T, the number of diffusion steps, at least 1.
/// s : float
///     Offset that keeps the first betas from vanishing, above -1.
///
/// Returns
/// -------
/// Tensor
///     The betas, float32 on the CPU, shape (num_steps,).
///
/// Raises
/// ------
/// ValueError
///     If `num_steps` or `s` is out of range.
///
/// Examples
/// --------
/// >>> import rust_diffusion as rd
/// >>> rd.cosine_beta_schedule(400).shape
/// torch.Size([400])
#[pyfunction]
#[pyo3(signature = (num_steps, s = COSINE_OFFSET), text_signature = "(num_steps, s=0.008)")]
fn cosine_beta_schedule(py: Python<'_>, num_steps: i64, s: f64) -> PyResult<Bound<'_, PyAny>> {
    to_python(py, detached(py, || schedule::cosine_betas(num_steps, s))?)
}

/// Compute the linear noise schedule (Ho, Jain and Abbeel 2020, section 4).
///
/// The usual end points belong to T = 1000; shorter schedules need a larger `beta_end` to reach pure noise.
///
/// Parameters
/// ----------
/// num_steps : int
///     T, the number of diffusion steps, at least 1.
/// beta_start, beta_end : float
///     First and last beta, between 0 and 1, both excluded.
///
/// Returns
/// -------
/// Tensor
///     The betas, float32 on the CPU, shape (num_steps,).
///
/// Raises
/// ------
/// ValueError
///     If an argument is out of range.
///
/// Examples
/// --------
/// >>> import rust_diffusion as rd
/// >>> rd.linear_beta_schedule(3)
/// tensor([1.0000e-04, 1.0050e-02, 2.0000e-02])
#[pyfunction]
#[pyo3(
    signature = (num_steps, beta_start = LINEAR_START, beta_end = LINEAR_END),
    text_signature = "(num_steps, beta_start=0.0001, beta_end=0.02)"
)]
fn linear_beta_schedule(py: Python<'_>, num_steps: i64, beta_start: f64, beta_end: f64) -> PyResult<Bound<'_, PyAny>> {
    to_python(py, detached(py, || schedule::linear_betas(num_steps, beta_start, beta_end))?)
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(cosine_beta_schedule, m)?)?;
    m.add_function(wrap_pyfunction!(linear_beta_schedule, m)?)
}
