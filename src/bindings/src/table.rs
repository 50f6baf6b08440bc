//! The samplers' tables: made here by name, each by its constructor in the core, and opaque to Python.

use diffusion_core::choice::Choice;
use diffusion_core::diffusion::schedule::{alpha_bar_values, coefficients};
use diffusion_core::diffusion::Schedule;
use diffusion_core::sampler::{self, Spacing};
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

#[pymethods]
impl Table {
    /// Steps as a user counts them.
    #[getter]
    fn steps(&self) -> usize {
        self.inner.steps()
    }

    /// The times at which the network is asked, in order.
    #[getter]
    fn times(&self) -> Vec<f64> {
        self.inner.times()
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
        let alpha_bars = from_python(alpha_bars, "alpha_bars")?;
        made(py, move || sampler::ddim(&alpha_bar_values(&alpha_bars)?, &timesteps, eta))
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
    m.add_function(wrap_pyfunction!(timestep_grid, m)?)?;
    m.add_class::<Table>()
}
