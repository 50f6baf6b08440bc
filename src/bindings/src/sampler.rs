//! The samplers: the loop runs in the core without the GIL; models, noise and callbacks of Python are called back into.

use std::sync::{Arc, Mutex, PoisonError};

use diffusion_core::choice::Choice;
use diffusion_core::diffusion::schedule::{alpha_bar_values, coefficients, Schedule};
use diffusion_core::diffusion::{Denoiser, Noise, Objective, TorchNoise};
use diffusion_core::nn::predictor::Predictor;
use diffusion_core::nn::Precision;
use diffusion_core::sampler::{self, At, Draw, Plan, Recorded, Rule, Spacing, Step, Stepped, Stepper};
use diffusion_core::{Error, Result};
use pyo3::prelude::*;
use pyo3::types::PyList;
use tch::{Device, Tensor};

use crate::detach::{attached, check_signals, detached};
use crate::device::PythonGraph;
use crate::error::to_py;
use crate::nn::Network;
use crate::tensor::{from_python, list_from_python, to_python};

/// Any Python callable (x_t, t) -> prediction.
struct Callable(PyObject);

impl Denoiser for Callable {
    fn predict(&mut self, x: &Tensor, t: &Tensor) -> Result<Tensor> {
        attached(|py| {
            let x = to_python(py, x.shallow_clone())?;
            let t = to_python(py, t.shallow_clone())?;
            let out = self.0.call1(py, (x, t))?;
            from_python(out.bind(py), "what model returned")
        })
    }
}

/// A Python callable (shape) -> standard normal tensor: generators and per-image seeds.
struct PythonNoise(PyObject);

impl Noise for PythonNoise {
    fn normal(&mut self, shape: &[i64], _device: Device) -> Result<Tensor> {
        attached(|py| from_python(self.0.call1(py, (shape.to_vec(),))?.bind(py), "noise"))
    }
}

/// What Python says the model is: our network with its weights, or something to call.
#[derive(FromPyObject)]
enum Model<'py> {
    /// plan, weights, rate of dropout, precision, what records the steps (see `PythonGraph`)
    Native(PyRef<'py, Network>, Bound<'py, PyList>, f64, String, Option<PyObject>),
    Callable(PyObject),
}

impl Model<'_> {
    /// What makes such steps of batches like `x`.
    fn stepper(self, rule: Rule, x: &Tensor) -> PyResult<Box<dyn Stepper + Send>> {
        let (unet, params, dropout, precision, recorder) = match self {
            Model::Native(unet, params, dropout, precision, recorder) => (unet, params, dropout, precision, recorder),
            Model::Callable(call) => return Ok(Box::new(Callable(call))),
        };
        let precision = Precision::parse(&precision).map_err(to_py)?;
        let params = list_from_python(&params, "params")?;
        let (blueprint, home, x) = (Arc::clone(&unet.blueprint), Arc::clone(&unet.recorded), x.shallow_clone());
        detached(unet.py(), move || -> Result<Box<dyn Stepper + Send>> {
            let Some(recorder) = recorder else {
                return Ok(Box::new(Predictor::new(&blueprint, params, precision, dropout)?));
            };
            let mut kept = home.lock().unwrap_or_else(PoisonError::into_inner).take();
            let recorded = match &mut kept {
                Some(old) if old.fits(rule, &x) && old.inner().is_of(&params, precision, dropout) => {
                    old.inner_mut().refresh()?;
                    kept
                }
                _ => {
                    drop(kept);
                    let predictor = Predictor::new(&blueprint, params, precision, dropout)?;
                    Some(Recorded::new(predictor, rule, PythonGraph::boxed(recorder), &x)?)
                }
            };
            Ok(Box::new(Borrowed { recorded, home }))
        })
    }
}

/// A recorded network on loan: it goes back to where the next run finds it, unless it failed.
struct Borrowed {
    recorded: Option<Recorded<Predictor>>,
    home: Arc<Mutex<Option<Recorded<Predictor>>>>,
}

impl Stepper for Borrowed {
    fn step(&mut self, rule: Rule, x: &Tensor, at: &At, draw: &mut Draw) -> Result<Stepped> {
        let recorded = self.recorded.as_mut().ok_or_else(|| Error::Runtime("the network failed before".into()))?;
        let stepped = recorded.step(rule, x, at, draw);
        if stepped.is_err() {
            self.recorded = None;
        }
        stepped
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(recorded) = self.recorded.take() {
            *self.home.lock().unwrap_or_else(PoisonError::into_inner) = Some(recorded);
        }
    }
}

pub fn noise_source(noise: Option<PyObject>) -> Box<dyn Noise + Send> {
    match noise {
        Some(call) => Box::new(PythonNoise(call)),
        None => Box::new(TorchNoise),
    }
}

/// Ctrl-C, then the callback (index, total, timestep, x, x0_hat).
fn report(on_step: Option<&PyObject>, step: &Step) -> Result<()> {
    check_signals()?;
    let Some(call) = on_step else { return Ok(()) };
    attached(|py| {
        let x = to_python(py, step.x.shallow_clone())?;
        let x0_hat = to_python(py, step.x0_hat.shallow_clone())?;
        call.call1(py, (step.index, step.total, step.timestep, x, x0_hat)).map(|_| ())
    })
}

/// Draws images by the plan that `plan` makes.
fn draw<'py>(
    py: Python<'py>,
    model: Model<'py>,
    x_t: &Bound<'py, PyAny>,
    plan: impl FnOnce() -> Result<Plan> + Send,
    noise: Option<PyObject>,
    on_step: Option<PyObject>,
) -> PyResult<Bound<'py, PyAny>> {
    let x_t = from_python(x_t, "x_T")?;
    let plan = detached(py, plan)?;
    let mut stepper = model.stepper(plan.rule, &x_t)?;
    let mut noise = noise_source(noise);
    let out = detached(py, move || {
        let _guard = tch::no_grad_guard();
        let on_step = &mut |step: &Step| report(on_step.as_ref(), step);
        sampler::sample(stepper.as_mut(), &plan, x_t, noise.as_mut(), on_step)
    })?;
    to_python(py, out)
}

#[pyfunction]
#[pyo3(signature = (model, x_t, betas, alphas, alpha_bars, objective, noise = None, on_step = None))]
#[allow(clippy::too_many_arguments)]
fn ddpm_sample<'py>(
    py: Python<'py>,
    model: Model<'py>,
    x_t: &Bound<'py, PyAny>,
    betas: &Bound<'py, PyAny>,
    alphas: &Bound<'py, PyAny>,
    alpha_bars: &Bound<'py, PyAny>,
    objective: &str,
    noise: Option<PyObject>,
    on_step: Option<PyObject>,
) -> PyResult<Bound<'py, PyAny>> {
    let (betas, alphas) = (from_python(betas, "betas")?, from_python(alphas, "alphas")?);
    let alpha_bars = from_python(alpha_bars, "alpha_bars")?;
    let objective = Objective::parse(objective).map_err(to_py)?;
    let plan = move || {
        let schedule = Schedule {
            betas: coefficients(&betas, "betas")?,
            alphas: coefficients(&alphas, "alphas")?,
            alpha_bars: alpha_bar_values(&alpha_bars)?,
        };
        sampler::ddpm(&schedule, objective)
    };
    draw(py, model, x_t, plan, noise, on_step)
}

#[pyfunction]
#[pyo3(signature = (model, x_t, alpha_bars, grid, eta, objective, noise = None, on_step = None))]
#[allow(clippy::too_many_arguments)]
fn ddim_sample<'py>(
    py: Python<'py>,
    model: Model<'py>,
    x_t: &Bound<'py, PyAny>,
    alpha_bars: &Bound<'py, PyAny>,
    grid: Vec<i64>,
    eta: f64,
    objective: &str,
    noise: Option<PyObject>,
    on_step: Option<PyObject>,
) -> PyResult<Bound<'py, PyAny>> {
    let alpha_bars = from_python(alpha_bars, "alpha_bars")?;
    let objective = Objective::parse(objective).map_err(to_py)?;
    let plan = move || {
        let alpha_bars = alpha_bar_values(&alpha_bars)?;
        sampler::check_grid(&grid, alpha_bars.len() as i64)?;
        if !(eta.is_finite() && eta >= 0.0) {
            return Err(Error::Value(format!("eta must be a finite number >= 0, got {eta}")));
        }
        Ok(sampler::ddim(&alpha_bars, &grid, eta, objective))
    };
    draw(py, model, x_t, plan, noise, on_step)
}

/// The timesteps that DDIM visits, decreasing.
#[pyfunction]
fn timestep_grid(num_timesteps: i64, sample_steps: i64, spacing: &str) -> PyResult<Vec<i64>> {
    let spacing = Spacing::parse(spacing).map_err(to_py)?;
    sampler::timestep_grid(num_timesteps, sample_steps, spacing).map_err(to_py)
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(ddpm_sample, m)?)?;
    m.add_function(wrap_pyfunction!(ddim_sample, m)?)?;
    m.add_function(wrap_pyfunction!(timestep_grid, m)?)
}
