//! Noise schedules, and the noising process in closed form.

use diffusion_core::choice::Choice;
use diffusion_core::diffusion::process::{self, Denoised};
use diffusion_core::diffusion::schedule::{self, COSINE_OFFSET, LINEAR_END, LINEAR_START};
use diffusion_core::diffusion::{Objective, Question};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::detach::detached;
use crate::error::to_py;
use crate::tensor::{from_python, to_python};

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
///     First and last beta, between 0 and 1, both excluded; the last no smaller than the first.
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

/// Pick one coefficient per image and shape it to broadcast over a batch.
///
/// Parameters
/// ----------
/// coefficients : Tensor or array
///     One number per timestep, floating point, shape (T,), on any device.
/// t : Tensor or array
///     Timesteps 0..T-1, integers, shape (B,).
/// x_shape : sequence of int
///     Shape of the batch, (B, ...).
///
/// Returns
/// -------
/// Tensor
///     ``coefficients[t]`` on t's device, shape (B, 1, 1, ...) with as many dimensions as `x_shape`.
///
/// Raises
/// ------
/// ValueError
///     If a shape does not fit or a timestep is out of range.
/// TypeError
///     If a dtype does not fit or something is neither a tensor nor an array.
///
/// Examples
/// --------
/// >>> import rust_diffusion as rd, torch
/// >>> rd.extract(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([2, 0]), (2, 1, 8, 8)).shape
/// torch.Size([2, 1, 1, 1])
#[pyfunction]
fn extract<'py>(
    py: Python<'py>,
    coefficients: &Bound<'py, PyAny>,
    t: &Bound<'py, PyAny>,
    x_shape: Vec<i64>,
) -> PyResult<Bound<'py, PyAny>> {
    let (coefficients, t) = (from_python(coefficients, "coefficients")?, from_python(t, "t")?);
    to_python(py, detached(py, move || process::extract(&coefficients, &t, &x_shape))?)
}

/// Noise clean images to timestep t in one step (Ho, Jain and Abbeel 2020, equation 4).
///
/// x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) noise.
///
/// Parameters
/// ----------
/// x0 : Tensor or array
///     Clean images in [-1, 1], floating point, shape (B, C, H, W) or any (B, ...).
/// t : Tensor or array
///     Timesteps 0..T-1, integers, shape (B,).
/// noise : Tensor or array
///     Standard normal noise of the shape, dtype and device of `x0`.
/// alpha_bars : Tensor or array
///     Running product of ``1 - betas``, shape (T,).
///
/// Returns
/// -------
/// Tensor
///     x_t, of the shape of `x0`; torch's autograd sees the operation.
///
/// Raises
/// ------
/// ValueError
///     If shapes or devices do not fit or a timestep is out of range.
/// TypeError
///     If a dtype does not fit or something is neither a tensor nor an array.
#[pyfunction]
fn q_sample<'py>(
    py: Python<'py>,
    x0: &Bound<'py, PyAny>,
    t: &Bound<'py, PyAny>,
    noise: &Bound<'py, PyAny>,
    alpha_bars: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let (x0, t) = (from_python(x0, "x0")?, from_python(t, "t")?);
    let (noise, alpha_bars) = (from_python(noise, "noise")?, from_python(alpha_bars, "alpha_bars")?);
    to_python(py, detached(py, move || process::q_sample(&x0, &t, &noise, &alpha_bars))?)
}

/// Estimate the clean image from a noisy one and its noise (Ho, Jain and Abbeel 2020, equation 15).
///
/// x0_hat = (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t); not clamped.
///
/// Parameters
/// ----------
/// x_t : Tensor or array
///     Noisy images, floating point, shape (B, C, H, W) or any (B, ...).
/// eps_pred : Tensor or array
///     The predicted noise, of the shape, dtype and device of `x_t`.
/// t : Tensor or array
///     Timesteps 0..T-1, integers, shape (B,).
/// alpha_bars : Tensor or array
///     Running product of ``1 - betas``, shape (T,).
///
/// Returns
/// -------
/// Tensor
///     x0_hat, of the shape of `x_t`; torch's autograd sees the operation.
///
/// Raises
/// ------
/// ValueError
///     If shapes or devices do not fit or a timestep is out of range.
/// TypeError
///     If a dtype does not fit or something is neither a tensor nor an array.
#[pyfunction]
fn predict_x0_from_eps<'py>(
    py: Python<'py>,
    x_t: &Bound<'py, PyAny>,
    eps_pred: &Bound<'py, PyAny>,
    t: &Bound<'py, PyAny>,
    alpha_bars: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let (x_t, eps) = (from_python(x_t, "x_t")?, from_python(eps_pred, "eps_pred")?);
    let (t, alpha_bars) = (from_python(t, "t")?, from_python(alpha_bars, "alpha_bars")?);
    to_python(py, detached(py, move || process::predict_x0_from_eps(&x_t, &eps, &t, &alpha_bars))?)
}

/// How a network of this objective is asked about images x at times t: (what it is shown, at which times).
#[pyfunction]
fn asked<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    t: &Bound<'py, PyAny>,
    alpha_bars: Option<&Bound<'py, PyAny>>,
    objective: &str,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    let question = question(py, x, t, alpha_bars, objective)?;
    Ok((to_python(py, question.shown)?, to_python(py, question.t)?))
}

/// What its answer says: (x0, eps), nothing clamped.
#[pyfunction]
fn answered<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    t: &Bound<'py, PyAny>,
    alpha_bars: Option<&Bound<'py, PyAny>>,
    objective: &str,
    answer: &Bound<'py, PyAny>,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    let question = question(py, x, t, alpha_bars, objective)?;
    let answer = from_python(answer, "what model returned")?;
    let Denoised { x0_hat, eps_hat } = detached(py, move || question.read(&answer))?;
    Ok((to_python(py, x0_hat)?, to_python(py, eps_hat)?))
}

fn question(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    t: &Bound<'_, PyAny>,
    alpha_bars: Option<&Bound<'_, PyAny>>,
    objective: &str,
) -> PyResult<Question> {
    let objective = Objective::parse(objective).map_err(to_py)?;
    let (x, t) = (from_python(x, "x")?, from_python(t, "t")?);
    let alpha_bars = alpha_bars.map(|alpha_bars| from_python(alpha_bars, "alpha_bars")).transpose()?;
    detached(py, move || Question::new(&x, &t, alpha_bars.as_ref(), objective))
}

/// Map values from [-1, 1] to [0, 1], as pictures are shown, and clamp what lies outside.
///
/// Parameters
/// ----------
/// x : Tensor or array
///     Floating point, any shape.
///
/// Returns
/// -------
/// Tensor
///     ``((x + 1) / 2).clamp(0, 1)``.
///
/// Raises
/// ------
/// TypeError
///     If `x` is not floating point or is neither a tensor nor an array.
///
/// Examples
/// --------
/// >>> import rust_diffusion as rd, torch
/// >>> rd.denormalize_to_01(torch.tensor([-1.0, 0.0, 3.0]))
/// tensor([0.0000, 0.5000, 1.0000])
#[pyfunction]
fn denormalize_to_01<'py>(py: Python<'py>, x: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let x = from_python(x, "x")?;
    to_python(py, detached(py, move || process::denormalize_to_01(&x))?)
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("MAX_STEPS", schedule::MAX_STEPS)?;
    m.add("OBJECTIVES", PyTuple::new(m.py(), Objective::names())?)?;
    m.add_function(wrap_pyfunction!(cosine_beta_schedule, m)?)?;
    m.add_function(wrap_pyfunction!(linear_beta_schedule, m)?)?;
    m.add_function(wrap_pyfunction!(extract, m)?)?;
    m.add_function(wrap_pyfunction!(q_sample, m)?)?;
    m.add_function(wrap_pyfunction!(predict_x0_from_eps, m)?)?;
    m.add_function(wrap_pyfunction!(asked, m)?)?;
    m.add_function(wrap_pyfunction!(answered, m)?)?;
    m.add_function(wrap_pyfunction!(denormalize_to_01, m)?)
}
