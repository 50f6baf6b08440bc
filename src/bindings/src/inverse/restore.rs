//! Restoration: methods by name, and the sampler's loop with one of them in it.

use std::sync::Arc;

use diffusion_core::choice::Choice;
use diffusion_core::diffusion::schedule::alpha_bar_values;
use diffusion_core::inverse::denoising::{self, DenoisingError, Gathered};
use diffusion_core::inverse::methods::{self, Norm, Problem, Travel};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::detach::{check_signals, detached};
use crate::error::to_py;
use crate::inverse::Operator;
use crate::sampler::table::{along, Table};
use crate::sampler::{draw, Model, Settings};
use crate::tensor::{from_python, to_python};

/// How x0 given x_t is spread about x0_hat at each question to the network.
#[pyclass(frozen, module = "rust_diffusion._native")]
pub struct Spread {
    inner: methods::Spread,
}

#[pymethods]
impl Spread {
    #[staticmethod]
    fn even(r2: Vec<f64>) -> Self {
        Self { inner: methods::Spread::Even(r2) }
    }

    #[staticmethod]
    fn modes(variances: &Bound<'_, PyAny>) -> PyResult<Self> {
        let inner = methods::Spread::modes(&from_python(variances, "r2")?).map_err(to_py)?;
        Ok(Self { inner })
    }

    #[staticmethod]
    fn local(modes: &Bound<'_, PyAny>, gradients: &Bound<'_, PyAny>, variances: &Bound<'_, PyAny>) -> PyResult<Self> {
        let [modes, gradients, variances] = [modes, gradients, variances].map(|of| from_python(of, "r2"));
        let inner = methods::Spread::local(&modes?, &gradients?, &variances?).map_err(to_py)?;
        Ok(Self { inner })
    }
}

/// How a measurement enters a sampler's steps.
#[pyclass(frozen, module = "rust_diffusion._native")]
pub struct Method {
    inner: methods::Method,
}

#[pymethods]
impl Method {
    #[staticmethod]
    fn dps(scale: Option<f64>, norm: &str, guide_below: f64) -> PyResult<Self> {
        let norm = Norm::parse(norm).map_err(to_py)?;
        Ok(Self { inner: methods::Method::Dps { scale, norm, guide_below } })
    }

    #[staticmethod]
    fn diffpir(lambda: f64) -> Self {
        Self { inner: methods::Method::Diffpir { lambda } }
    }

    #[staticmethod]
    fn ddnm(eta: f64) -> Self {
        Self { inner: methods::Method::Ddnm { eta } }
    }

    #[staticmethod]
    fn pigdm(spread: PyRef<'_, Spread>) -> Self {
        Self { inner: methods::Method::Pigdm(spread.inner.clone()) }
    }

    #[staticmethod]
    fn mmps(cg_steps: usize) -> Self {
        Self { inner: methods::Method::Mmps { cg_steps } }
    }

    #[staticmethod]
    fn daps(spread: PyRef<'_, Spread>, widen: bool) -> Self {
        Self { inner: methods::Method::Daps { spread: spread.inner.clone(), widen } }
    }

    #[staticmethod]
    fn daps_jacobian(steps: usize) -> Self {
        Self { inner: methods::Method::DapsJacobian { steps } }
    }

    #[staticmethod]
    fn course_dps(scale: f64) -> Self {
        Self { inner: methods::Method::CourseDps { scale } }
    }

    #[staticmethod]
    fn course_diffpir(tau: f64) -> Self {
        Self { inner: methods::Method::CourseDiffpir { tau } }
    }
}

/// x0 noised anew in each step: with the shares `kept` of its old noise and `fresh` of new noise.
#[pyfunction]
fn renoised_table(
    py: Python<'_>,
    alpha_bars: &Bound<'_, PyAny>,
    timesteps: Vec<i64>,
    kept: f64,
    fresh: f64,
    travel: (usize, usize),
) -> PyResult<Table> {
    let travel = Travel { length: travel.0, repeat: travel.1 };
    along(py, alpha_bars, move |bars| methods::travelling(bars, &timesteps, kept, fresh, travel))
}

/// DDIM from pair to pair, without a last look at the image.
#[pyfunction]
fn course_pairs_table(py: Python<'_>, alpha_bars: &Bound<'_, PyAny>, timesteps: Vec<i64>) -> PyResult<Table> {
    along(py, alpha_bars, move |bars| methods::course_pairs(bars, &timesteps))
}

/// Images that explain `y`, from the noise `x_t`.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn restore<'py>(
    py: Python<'py>,
    model: Model<'py>,
    x_t: &Bound<'py, PyAny>,
    table: PyRef<'py, Table>,
    settings: Settings,
    method: PyRef<'py, Method>,
    operator: PyRef<'py, Operator>,
    y: &Bound<'py, PyAny>,
    sigma: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let (x, y, sigma) = (from_python(x_t, "x_T")?, from_python(y, "y")?, from_python(sigma, "sigma_y")?);
    let (method, operator, clip) = (method.inner.clone(), Arc::clone(&operator.inner), settings.clip);
    let mut correction = detached(py, move || {
        let _quiet = tch::no_grad_guard();
        method.correction(Problem::new(operator, &y, sigma, &x, check_signals)?, clip)
    })?;
    let images = draw(py, model, x_t, &table, settings, Some(correction.as_mut()))?;
    to_python(py, images)
}

/// |K x0 - y|^2 / (m sigma^2) of each image, float64.
#[pyfunction]
fn residual<'py>(
    py: Python<'py>,
    operator: PyRef<'py, Operator>,
    x0: &Bound<'py, PyAny>,
    y: &Bound<'py, PyAny>,
    sigma: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let (x0, y, sigma) = (from_python(x0, "x0")?, from_python(y, "y")?, from_python(sigma, "sigma_y")?);
    let operator = Arc::clone(&operator.inner);
    let out = detached(py, move || {
        let _quiet = tch::no_grad_guard();
        methods::residual(&operator, &x0, &y, &sigma)
    })?;
    to_python(py, out)
}

/// Clean images noised to each of the timesteps in turn.
#[pyfunction]
fn visits_table(py: Python<'_>, alpha_bars: &Bound<'_, PyAny>, timesteps: Vec<i64>) -> PyResult<Table> {
    along(py, alpha_bars, move |bars| denoising::visits(bars, &timesteps))
}

/// What is `gathered` of x0_hat - x0 at each question of `visits_table`, from the clean `images` on.
#[pyfunction]
fn denoising_errors<'py>(
    py: Python<'py>,
    model: Model<'py>,
    images: &Bound<'py, PyAny>,
    table: PyRef<'py, Table>,
    settings: Settings,
    gathered: &str,
) -> PyResult<Bound<'py, PyAny>> {
    let gathered = Gathered::parse(gathered).map_err(to_py)?;
    let mut gathers = DenoisingError::new(&from_python(images, "images")?, gathered);
    let _ = draw(py, model, images, &table, settings, Some(&mut gathers))?;
    to_python(py, gathers.found().map_err(to_py)?)
}

/// What follows from the places of one question: modes, gradients and variances for `Spread.local`.
#[pyfunction]
fn local_error<'py>(
    py: Python<'py>,
    gradients: &Bound<'py, PyAny>,
    apart: &Bound<'py, PyAny>,
    floor: f64,
) -> PyResult<[Bound<'py, PyAny>; 3]> {
    let (gradients, apart) = (from_python(gradients, "gradients")?, from_python(apart, "apart")?);
    let found = detached(py, move || denoising::measured(&gradients, &apart, floor))?;
    Ok([to_python(py, found.modes)?, to_python(py, found.gradients)?, to_python(py, found.variances)?])
}

/// Errors at some timesteps as errors at all of them.
#[pyfunction]
fn errors_at_every_timestep<'py>(
    py: Python<'py>,
    alpha_bars: &Bound<'py, PyAny>,
    timesteps: Vec<i64>,
    errors: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let bars = alpha_bar_values(&from_python(alpha_bars, "alpha_bars")?).map_err(to_py)?;
    let errors = from_python(errors, "errors")?;
    to_python(py, denoising::at_every_timestep(&bars, &timesteps, &errors).map_err(to_py)?)
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("GUIDANCE_NORMS", PyTuple::new(m.py(), Norm::names())?)?;
    m.add_function(wrap_pyfunction!(renoised_table, m)?)?;
    m.add_function(wrap_pyfunction!(course_pairs_table, m)?)?;
    m.add_function(wrap_pyfunction!(restore, m)?)?;
    m.add_function(wrap_pyfunction!(residual, m)?)?;
    m.add_function(wrap_pyfunction!(visits_table, m)?)?;
    m.add_function(wrap_pyfunction!(denoising_errors, m)?)?;
    m.add_function(wrap_pyfunction!(local_error, m)?)?;
    m.add_function(wrap_pyfunction!(errors_at_every_timestep, m)?)?;
    m.add_class::<Spread>()?;
    m.add_class::<Method>()
}
