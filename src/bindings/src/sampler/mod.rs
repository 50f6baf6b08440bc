//! The samplers: the loop runs in the core without the GIL; models, noise and callbacks of Python are called back into.

pub mod table;

use std::sync::{Arc, Mutex, PoisonError};

use diffusion_core::choice::Choice;
use diffusion_core::device::Captured;
use diffusion_core::diffusion::denoiser::by_autograd;
use diffusion_core::diffusion::schedule::Level;
use diffusion_core::diffusion::{Denoiser, Noise, Objective, TorchNoise, Vjp};
use diffusion_core::nn::predictor::Predictor;
use diffusion_core::nn::Precision;
use diffusion_core::sampler::{self, Correction, Divergence, Known, Outside, Reading, Step};
use diffusion_core::{Error, Result};
use pyo3::prelude::*;
use tch::{Device, Tensor};

use crate::detach::{attached, check_signals, detached, Every, SHOW_EVERY, SIGNALS_EVERY};
use crate::device::PythonGraph;
use crate::error::to_py;
use crate::nn::{Network, Parameters};
use crate::tensor::{from_python, to_python};
use table::Table;

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

    fn predict_with_vjp<'a>(&'a mut self, x: &Tensor, t: &Tensor) -> Result<(Tensor, Box<dyn Vjp + 'a>)> {
        by_autograd(x, |x| self.predict(x, t))
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
pub enum Model<'py> {
    /// plan, weights, rate of dropout, precision, what the passes are captured in (see `PythonGraph`)
    Native(PyRef<'py, Network>, PyRef<'py, Parameters>, f64, String, Option<PyObject>),
    Callable(PyObject),
}

impl Model<'_> {
    /// What predicts for batches like `x`.
    pub fn denoiser(self, x: &Tensor) -> PyResult<Box<dyn Denoiser + Send>> {
        let (unet, params, dropout, precision, graph) = match self {
            Model::Native(unet, params, dropout, precision, graph) => (unet, params, dropout, precision, graph),
            Model::Callable(call) => return Ok(Box::new(Callable(call))),
        };
        let precision = Precision::parse(&precision).map_err(to_py)?;
        let (prepared, home, x) = (Arc::clone(&params.inner), Arc::clone(&unet.captured), x.shallow_clone());
        let kept = home.lock().unwrap_or_else(PoisonError::into_inner).take();
        detached(unet.py(), move || -> Result<Box<dyn Denoiser + Send>> {
            let Some(graph) = graph else {
                drop(kept);
                return Ok(Box::new(Predictor::new(&prepared, precision, dropout)?));
            };
            let params = prepared.handles();
            let mut usable =
                kept.filter(|old: &Captured<Predictor>| old.fits(&x) && old.inner().is_of(&params, precision, dropout));
            match &mut usable {
                Some(old) => old.inner_mut().refresh()?,
                None => {
                    let predictor = Predictor::new(&prepared, precision, dropout)?;
                    usable = Some(Captured::new(predictor, PythonGraph::boxed(graph)));
                }
            }
            Ok(Box::new(Borrowed { captured: usable, home }))
        })
    }
}

/// A captured network on loan: it goes back to where the next run finds it, unless it failed.
struct Borrowed {
    captured: Option<Captured<Predictor>>,
    home: Arc<Mutex<Option<Captured<Predictor>>>>,
}

impl Denoiser for Borrowed {
    fn predict(&mut self, x: &Tensor, t: &Tensor) -> Result<Tensor> {
        let captured = self.captured.as_mut().ok_or_else(|| Error::Runtime("the network failed before".into()))?;
        let answer = captured.predict(x, t);
        if answer.is_err() {
            self.captured = None;
        }
        answer
    }

    fn predict_with_vjp<'a>(&'a mut self, x: &Tensor, t: &Tensor) -> Result<(Tensor, Box<dyn Vjp + 'a>)> {
        let captured = self.captured.as_mut().ok_or_else(|| Error::Runtime("the network failed before".into()))?;
        captured.predict_with_vjp(x, t)
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(captured) = self.captured.take() {
            *self.home.lock().unwrap_or_else(PoisonError::into_inner) = Some(captured);
        }
    }
}

pub fn noise_source(noise: Option<PyObject>) -> Box<dyn Noise + Send> {
    match noise {
        Some(call) => Box::new(PythonNoise(call)),
        None => Box::new(TorchNoise),
    }
}

/// Those who want to know how a run goes, and Ctrl-C. Nobody is called who does not listen.
struct Listeners {
    /// Called with (index, total, t, x, x0_hat) after every step.
    callback: Option<PyObject>,
    /// Called with the number of steps done, when a bar may be drawn anew.
    show: Option<PyObject>,
    shown: Every,
    signals: Every,
    on_timesteps: bool,
}

impl Listeners {
    fn hear(&mut self, step: &Step) -> Result<()> {
        if self.signals.is_due() {
            check_signals()?;
        }
        if let Some(callback) = &self.callback {
            attached(|py| {
                let x = to_python(py, step.x.shallow_clone())?;
                let x0_hat = to_python(py, step.x0_hat.shallow_clone())?;
                let t = match self.on_timesteps {
                    true => (step.t as i64).into_pyobject(py)?.into_any(),
                    false => step.t.into_pyobject(py)?.into_any(),
                };
                callback.call1(py, (step.index, step.total, t, x, x0_hat))
            })?;
        }
        let done = step.index + 1;
        match &self.show {
            Some(show) if done == step.total || self.shown.is_due() => {
                attached(|py| show.call1(py, (done,)).map(|_| ()))
            }
            _ => Ok(()),
        }
    }
}

/// The arguments of a run that are the same for every sampler.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct Settings {
    objective: String,
    pub clip: bool,
    noise: Option<PyObject>,
    callback: Option<PyObject>,
    show: Option<PyObject>,
}

/// From x_T along the table, with a correction or without.
pub fn draw<'py>(
    py: Python<'py>,
    model: Model<'py>,
    x_t: &Bound<'py, PyAny>,
    table: &Table,
    settings: Settings,
    correction: Option<&mut (dyn Correction + Send)>,
) -> PyResult<Tensor> {
    let x_t = from_python(x_t, "x_T")?;
    let mut model = model.denoiser(&x_t)?;
    let Settings { objective, clip, noise, callback, show } = settings;
    let reading = Reading { objective: Objective::parse(&objective).map_err(to_py)?, clip };
    let mut noise = noise_source(noise);
    let table = &table.inner;
    let mut listeners = Listeners {
        callback,
        show,
        shown: Every::new(SHOW_EVERY),
        signals: Every::new(SIGNALS_EVERY),
        on_timesteps: table.on_timesteps(),
    };
    detached(py, move || {
        let _guard = tch::no_grad_guard();
        let outside = Outside {
            model: model.as_mut(),
            noise: noise.as_mut(),
            correction: correction.map(|it| it as &mut dyn Correction),
            on_step: &mut |step| listeners.hear(step),
        };
        sampler::sample(table, reading, x_t, outside)
    })
}

/// Images from the noise `x_t`, by the sampler whose table it is.
#[pyfunction]
fn sample<'py>(
    py: Python<'py>,
    model: Model<'py>,
    x_t: &Bound<'py, PyAny>,
    table: PyRef<'py, Table>,
    settings: Settings,
) -> PyResult<Bound<'py, PyAny>> {
    let images = draw(py, model, x_t, &table, settings, None)?;
    to_python(py, images)
}

/// The logarithm of each image's density, in float64: along `Table.flow_up`, with `probes` estimates of each trace.
#[pyfunction]
fn log_density<'py>(
    py: Python<'py>,
    model: Model<'py>,
    x: &Bound<'py, PyAny>,
    table: PyRef<'py, Table>,
    settings: Settings,
    probes: usize,
) -> PyResult<Bound<'py, PyAny>> {
    let mut divergence = Divergence::new(probes);
    let noise = draw(py, model, x, &table, settings, Some(&mut divergence))?;
    to_python(py, detached(py, move || divergence.log_density(&noise))?)
}

/// `count` noisy images from one to another, each given as (clean, noisy), at the level of noise of `alpha_bar`.
#[pyfunction]
fn between<'py>(
    py: Python<'py>,
    a: (Bound<'py, PyAny>, Bound<'py, PyAny>),
    b: (Bound<'py, PyAny>, Bound<'py, PyAny>),
    alpha_bar: f32,
    count: i64,
) -> PyResult<Bound<'py, PyAny>> {
    let (clean_a, noisy_a) = (from_python(&a.0, "a")?, from_python(&a.1, "a")?);
    let (clean_b, noisy_b) = (from_python(&b.0, "b")?, from_python(&b.1, "b")?);
    let images = detached(py, move || {
        let (a, b) = (Known { clean: &clean_a, noisy: &noisy_a }, Known { clean: &clean_b, noisy: &noisy_b });
        sampler::between(&a, &b, Level::of_alpha_bar(alpha_bar), count)
    })?;
    to_python(py, images)
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    table::register(m)?;
    m.add_function(wrap_pyfunction!(log_density, m)?)?;
    m.add_function(wrap_pyfunction!(between, m)?)?;
    m.add_function(wrap_pyfunction!(sample, m)?)
}
