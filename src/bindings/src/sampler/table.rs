//! The samplers' tables: made here by name, each by its constructor in the core, and opaque to Python.

use diffusion_core::choice::Choice;
use diffusion_core::diffusion::schedule::{alpha_bar_values, coefficients};
use diffusion_core::diffusion::Schedule;
use diffusion_core::sampler::{self, FlowSolver, Order, Path, Solver, Spacing};
use diffusion_core::Result;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::detach::detached;
use crate::error::to_py;
use crate::tensor::from_python;

/// What a sampler does in each of its steps.
#[pyclass(frozen, module = "rust_diffusion._native")]
pub struct Table {
    pub inner: sampler::Table,
}

/// Made without the GIL.
fn made(py: Python<'_>, table: impl FnOnce() -> Result<sampler::Table> + Send) -> PyResult<Table> {
    Ok(Table { inner: detached(py, table)? })
}

/// For the running products of a schedule.
pub fn along(
    py: Python<'_>,
    alpha_bars: &Bound<'_, PyAny>,
    table: impl FnOnce(&[f32]) -> Result<sampler::Table> + Send,
) -> PyResult<Table> {
    let alpha_bars = from_python(alpha_bars, "alpha_bars")?;
    made(py, move || table(&alpha_bar_values(&alpha_bars)?))
}

#[pymethods]
impl Table {
    /// Steps as a user counts them.
    #[getter]
    fn steps(&self) -> usize {
        self.inner.steps()
    }

    /// What the network is taken to be shown: (timestep, alpha_bar).
    #[getter]
    fn questions(&self) -> Vec<(f64, f64)> {
        self.inner.questions()
    }

    #[staticmethod]
    fn ddpm(
        py: Python<'_>,
        betas: &Bound<'_, PyAny>,
        alphas: &Bound<'_, PyAny>,
        alpha_bars: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let (betas, alphas) = (from_python(betas, "betas")?, from_python(alphas, "alphas")?);
        let alpha_bars = from_python(alpha_bars, "alpha_bars")?;
        made(py, move || {
            sampler::ddpm(&Schedule {
                betas: coefficients(&betas, "betas")?,
                alphas: coefficients(&alphas, "alphas")?,
                alpha_bars: alpha_bar_values(&alpha_bars)?,
            })
        })
    }

    #[staticmethod]
    fn ddim(py: Python<'_>, alpha_bars: &Bound<'_, PyAny>, timesteps: Vec<i64>, eta: f64) -> PyResult<Self> {
        along(py, alpha_bars, move |bars| sampler::ddim(bars, &timesteps, eta))
    }

    #[staticmethod]
    fn euler(py: Python<'_>, alpha_bars: &Bound<'_, PyAny>, timesteps: Vec<i64>, ancestral: bool) -> PyResult<Self> {
        along(py, alpha_bars, move |bars| Ok(sampler::euler(&Path::down(bars, &timesteps)?, ancestral)))
    }

    #[staticmethod]
    fn heun(py: Python<'_>, alpha_bars: &Bound<'_, PyAny>, timesteps: Vec<i64>, churn: f64) -> PyResult<Self> {
        along(py, alpha_bars, move |bars| {
            let path = Path::down(bars, &timesteps)?;
            Ok(if churn > 0.0 { sampler::heun_with_churn(&path, bars, churn) } else { sampler::heun(&path) })
        })
    }

    #[staticmethod]
    fn dpmpp(
        py: Python<'_>,
        alpha_bars: &Bound<'_, PyAny>,
        timesteps: Vec<i64>,
        order: usize,
        solver: &str,
        sde: bool,
        lower_order_final: bool,
    ) -> PyResult<Self> {
        let solver = Solver::parse(solver).map_err(to_py)?;
        let order = Order { highest: order, solver, sde, lower_order_final };
        along(py, alpha_bars, move |bars| sampler::dpmpp(&Path::down(bars, &timesteps)?, order))
    }

    #[staticmethod]
    fn unipc(py: Python<'_>, alpha_bars: &Bound<'_, PyAny>, timesteps: Vec<i64>, order: usize) -> PyResult<Self> {
        along(py, alpha_bars, move |bars| sampler::unipc(&Path::down(bars, &timesteps)?, order))
    }

    #[staticmethod]
    fn ddim_invert(
        py: Python<'_>,
        alpha_bars: &Bound<'_, PyAny>,
        timesteps: Vec<i64>,
        answers_x0: bool,
    ) -> PyResult<Self> {
        along(py, alpha_bars, move |bars| Ok(sampler::ddim_invert(Path::down(bars, &timesteps)?, answers_x0)))
    }

    #[staticmethod]
    fn flow_up(py: Python<'_>, alpha_bars: &Bound<'_, PyAny>, timesteps: Vec<i64>) -> PyResult<Self> {
        along(py, alpha_bars, move |bars| Ok(sampler::flow_up(Path::down(bars, &timesteps)?)))
    }

    #[staticmethod]
    fn flow(steps: usize, solver: &str, shift: f64) -> PyResult<Self> {
        let solver = FlowSolver::parse(solver).map_err(to_py)?;
        Ok(Self { inner: sampler::flow(steps, solver, shift).map_err(to_py)? })
    }
}

/// The timesteps that a sampler with fewer than T steps visits, decreasing.
#[pyfunction]
fn timestep_grid(num_timesteps: i64, sample_steps: i64, spacing: &str) -> PyResult<Vec<i64>> {
    let spacing = Spacing::parse(spacing).map_err(to_py)?;
    sampler::timestep_grid(num_timesteps, sample_steps, spacing).map_err(to_py)
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("SPACINGS", PyTuple::new(m.py(), Spacing::names())?)?;
    m.add("SOLVERS", PyTuple::new(m.py(), Solver::names())?)?;
    m.add("FLOW_SOLVERS", PyTuple::new(m.py(), FlowSolver::names())?)?;
    m.add_function(wrap_pyfunction!(timestep_grid, m)?)?;
    m.add_class::<Table>()
}
