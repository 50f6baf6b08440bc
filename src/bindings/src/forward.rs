//! The closed forms of the forward process.

use diffusion_core::forward as core;
use pyo3::prelude::*;

use crate::detach::detached;
use crate::tensor::{from_python, to_python};

#[pyfunction]
fn extract<'py>(
    py: Python<'py>,
    coefficients: &Bound<'py, PyAny>,
    t: &Bound<'py, PyAny>,
    x_shape: Vec<i64>,
) -> PyResult<Bound<'py, PyAny>> {
    let (coefficients, t) = (
        from_python(coefficients, "coefficients")?,
        from_python(t, "t")?,
    );
    to_python(
        py,
        detached(py, move || core::extract(&coefficients, &t, &x_shape))?,
    )
}

#[pyfunction]
fn q_sample<'py>(
    py: Python<'py>,
    x0: &Bound<'py, PyAny>,
    t: &Bound<'py, PyAny>,
    noise: &Bound<'py, PyAny>,
    alpha_bars: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let (x0, t) = (from_python(x0, "x0")?, from_python(t, "t")?);
    let (noise, alpha_bars) = (
        from_python(noise, "noise")?,
        from_python(alpha_bars, "alpha_bars")?,
    );
    to_python(
        py,
        detached(py, move || core::q_sample(&x0, &t, &noise, &alpha_bars))?,
    )
}

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
    to_python(
        py,
        detached(py, move || {
            core::predict_x0_from_eps(&x_t, &eps, &t, &alpha_bars)
        })?,
    )
}

#[pyfunction]
fn denormalize_to_01<'py>(py: Python<'py>, x: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let x = from_python(x, "x")?;
    to_python(py, detached(py, move || core::denormalize_to_01(&x))?)
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(extract, m)?)?;
    m.add_function(wrap_pyfunction!(q_sample, m)?)?;
    m.add_function(wrap_pyfunction!(predict_x0_from_eps, m)?)?;
    m.add_function(wrap_pyfunction!(denormalize_to_01, m)?)
}
