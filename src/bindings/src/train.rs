//! The trainer: its loop runs in the core without the GIL; batches, files and the bar are the Python host's.

use std::time::Instant;

use diffusion_core::choice::Choice;
use diffusion_core::diffusion::{Objective, Schedule};
use diffusion_core::nn::differentiable::{add_found, differentiable, Differentiable};
use diffusion_core::train::{
    noising, Batch, EpochReport, Host, Length, Position, RateSchedule, Settings, StepReport, Trainer, TrainingTensors,
    ADAM_BETAS, ADAM_EPS,
};
use diffusion_core::{Error, Result};
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};
use pythonize::{depythonize, pythonize};
use serde::de::DeserializeOwned;
use tch::Tensor;

use crate::detach::{attached, check_signals, detached, SHOW_EVERY};
use crate::device::PythonGraph;
use crate::error::to_py;
use crate::nn::Network;
use crate::tensor::{from_python, list_from_python, to_python};

/// Something of the core's that is a dict in Python.
struct Dict<T>(T);

impl<'py, T: DeserializeOwned> FromPyObject<'py> for Dict<T> {
    fn extract_bound(dict: &Bound<'py, PyAny>) -> PyResult<Self> {
        Ok(Self(depythonize(dict)?))
    }
}

fn dict_of<'py>(py: Python<'py>, position: &Position) -> PyResult<Bound<'py, PyAny>> {
    Ok(pythonize(py, position)?)
}

/// Where a run from nothing begins.
#[pyfunction]
fn first_position(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    dict_of(py, &Position::default())
}

/// The rate of the update after `updates` others, in `epoch`.
#[pyfunction]
fn learning_rate(settings: Dict<Settings>, epoch: i64, updates: i64) -> f64 {
    settings.0.rate_at(epoch, updates)
}

/// Raises what is wrong with a schedule.
#[pyfunction]
fn check_betas(py: Python<'_>, betas: &Bound<'_, PyAny>) -> PyResult<()> {
    let betas = from_python(betas, "betas")?;
    detached(py, move || Schedule::from_betas(&betas).map(|_| ()))
}

/// (x_t, the times the network is shown, what it should answer) for images as `train` takes them, at t with this noise.
#[pyfunction]
fn noised<'py>(
    py: Python<'py>,
    images: &Bound<'py, PyAny>,
    t: &Bound<'py, PyAny>,
    noise: &Bound<'py, PyAny>,
    betas: &Bound<'py, PyAny>,
    objective: &str,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    let objective = Objective::parse(objective).map_err(to_py)?;
    let (images, t) = (from_python(images, "images")?, from_python(t, "t")?);
    let (noise, betas) = (from_python(noise, "noise")?, from_python(betas, "betas")?);
    let (x_t, shown, target) = detached(py, move || {
        let x0 = noising::normalised(&images)?;
        noising::question(&x0, &t, &noise, &Schedule::from_betas(&betas)?, objective)
    })?;
    Ok((to_python(py, x_t)?, to_python(py, shown)?, to_python(py, target)?))
}

/// The Python object that gives batches and is told how the run goes.
struct PythonHost {
    host: PyObject,
    shown: Option<Instant>,
}

impl Host for PythonHost {
    fn begin_epoch(&mut self, position: &Position) -> Result<()> {
        self.shown = None;
        attached(|py| {
            let args = (dict_of(py, position)?,);
            self.host.call_method1(py, "begin_epoch", args).map(|_| ())
        })
    }

    fn next_batch(&mut self, fresh: bool) -> Result<Option<Batch>> {
        attached(|py| {
            let given = self.host.call_method1(py, "next_batch", (fresh,))?;
            let given = given.bind(py);
            if given.is_none() {
                return Ok(None);
            }
            let (images, total, first): (Bound<'_, PyAny>, i64, i64) = given.extract()?;
            Ok(Some(Batch { images: from_python(&images, "what data gave")?, total, first }))
        })
    }

    fn watch(&mut self) -> Result<bool> {
        check_signals()?;
        Ok(self.shown.is_none_or(|at| at.elapsed() >= SHOW_EVERY))
    }

    fn step_done(&mut self, report: &StepReport) -> Result<()> {
        self.shown = Some(Instant::now());
        let p = report.position;
        attached(|py| {
            let args = (p.batch, report.loss, p.mean_loss(), report.images_per_second);
            self.host.call_method1(py, "show", args).map(|_| ())
        })
    }

    fn settle(&mut self, position: &Position) -> Result<Option<Length>> {
        attached(|py| {
            let length = self.host.call_method1(py, "settle", (dict_of(py, position)?,))?;
            Ok(length.extract::<Option<Dict<Length>>>(py)?.map(|length| length.0))
        })
    }

    fn end_epoch(&mut self, report: &EpochReport) -> Result<bool> {
        attached(|py| {
            let args =
                (report.epoch, report.loss, report.rate, report.images_per_second, dict_of(py, report.position)?);
            self.host.call_method1(py, "end_epoch", args)?.extract(py)
        })
    }

    fn all_reduce(&mut self, flat: &Tensor) -> Result<()> {
        attached(|py| {
            let args = (to_python(py, flat.shallow_clone())?,);
            self.host.call_method1(py, "all_reduce", args).map(|_| ())
        })
    }

    fn agree(&mut self, failed: Option<&Error>) -> Result<()> {
        attached(|py| {
            let interrupted = failed.is_some_and(|error| is_interrupt(py, error));
            let args = (interrupted, failed.is_some() && !interrupted);
            self.host.call_method1(py, "agree", args).map(|_| ())
        })
    }

    fn stopped(&mut self, position: &Position, within_step: bool) -> Result<()> {
        attached(|py| {
            let args = (dict_of(py, position)?, within_step);
            self.host.call_method1(py, "stopped", args).map(|_| ())
        })
    }
}

fn is_interrupt(py: Python<'_>, error: &Error) -> bool {
    match error {
        Error::Interrupted => true,
        Error::Callback(raised) => {
            raised.downcast_ref::<PyErr>().is_some_and(|raised| raised.is_instance_of::<PyKeyboardInterrupt>(py))
        }
        _ => false,
    }
}

/// A network that is not ours: an object with `forward(x_t, t)`, the prediction, and `backward(d_prediction)`, the gradients
/// of the parameters in training, None for those that had no part in it.
struct PythonNetwork(PyObject);

impl Differentiable for PythonNetwork {
    fn forward(&mut self, x: &Tensor, t: &Tensor) -> Result<Tensor> {
        attached(|py| {
            let args = (to_python(py, x.shallow_clone())?, to_python(py, t.shallow_clone())?);
            from_python(&self.0.bind(py).call_method1("forward", args)?, "what model returned")
        })
    }

    fn backward(&mut self, d_prediction: &Tensor, grads: &mut [Tensor]) -> Result<()> {
        let found = attached(|py| {
            let args = (to_python(py, d_prediction.shallow_clone())?,);
            let found: Vec<Option<Bound<'_, PyAny>>> = self.0.bind(py).call_method1("backward", args)?.extract()?;
            found
                .iter()
                .map(|g| g.as_ref().map(|g| from_python(g, "a gradient")).transpose())
                .collect::<PyResult<Vec<_>>>()
        })?;
        add_found(grads, found)
    }

    fn weights_changed(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Train in place: `params` and `shadow` are the modules' own parameters, `moments` two flat float32 buffers. `network` is one
/// of ours, or what [`PythonNetwork`] takes. The gradients of the usual batch and the usual update are captured in `graphs`
/// (see [`PythonGraph`]).
#[pyfunction]
#[pyo3(signature = (network, params, shadow, moments, betas, settings, position, host, graphs))]
#[allow(clippy::too_many_arguments)]
fn train_network(
    py: Python<'_>,
    network: &Bound<'_, PyAny>,
    params: &Bound<'_, PyList>,
    shadow: &Bound<'_, PyList>,
    moments: (Bound<'_, PyAny>, Bound<'_, PyAny>),
    betas: &Bound<'_, PyAny>,
    settings: Dict<Settings>,
    position: Dict<Position>,
    host: PyObject,
    graphs: (Option<PyObject>, Option<PyObject>),
) -> PyResult<()> {
    let weights = list_from_python(params, "model.parameters()")?;
    let shadow = list_from_python(shadow, "ema.shadow.parameters()")?;
    let (first, second) = (from_python(&moments.0, "exp_avg")?, from_python(&moments.1, "exp_avg_sq")?);
    let betas = from_python(betas, "betas")?;
    let plan = network.downcast::<Network>().ok().map(|network| network.get().blueprint.clone());
    let other = PythonNetwork(network.clone().unbind());
    let mut host = PythonHost { host, shown: None };
    detached(py, move || {
        let settings = settings.0;
        let net: Box<dyn Differentiable + Send> = match plan {
            Some(plan) => {
                let weights = weights.iter().map(Tensor::shallow_clone).collect();
                differentiable(&plan, weights, settings.precision, settings.dropout)?
            }
            None => Box::new(other),
        };
        let tensors = TrainingTensors::new(weights, shadow, first, second)?;
        let schedule = Schedule::from_betas(&betas)?;
        let graphs = [graphs.0, graphs.1].map(|graph| graph.map(PythonGraph::boxed));
        Trainer::new(net, tensors, &schedule, settings, position.0, graphs)?.run(&mut host)
    })
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("ADAM_BETAS", ADAM_BETAS)?;
    m.add("ADAM_EPS", ADAM_EPS)?;
    m.add("TIME_SAMPLINGS", PyTuple::new(m.py(), noising::TimeSampling::names())?)?;
    m.add("LR_SCHEDULES", PyTuple::new(m.py(), RateSchedule::names())?)?;
    m.add_function(wrap_pyfunction!(first_position, m)?)?;
    m.add_function(wrap_pyfunction!(learning_rate, m)?)?;
    m.add_function(wrap_pyfunction!(check_betas, m)?)?;
    m.add_function(wrap_pyfunction!(noised, m)?)?;
    m.add_function(wrap_pyfunction!(train_network, m)?)
}
