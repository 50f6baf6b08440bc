//! The trainer: its loop runs in the core without the GIL; batches, files and the bar are the Python host's.

use std::time::Instant;

use diffusion_core::choice::Choice;
use diffusion_core::diffusion::{Objective, Schedule};
use diffusion_core::nn::Precision;
use diffusion_core::train::{
    self, Batch, EpochReport, Flat, Host, LossScaler, Rate, RateSchedule, State, StepReport, Trainer,
};
use diffusion_core::Result;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};
use tch::Tensor;

use crate::detach::{attached, check_signals, detached, SHOW_EVERY};
use crate::device::PythonGraph;
use crate::error::to_py;
use crate::nn::Network;
use crate::tensor::{from_python, list_from_python, to_python};

/// The core's options, as a dict of Python's.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Options {
    epochs: i64,
    learning_rate: f64,
    lr_schedule: String,
    warmup_steps: i64,
    weight_decay: f64,
    grad_clip: f64,
    ema_decay: f64,
    ema_warmup: bool,
    precision: String,
    dropout: f64,
    objective: String,
    min_snr_gamma: Option<f64>,
    accumulate: i64,
    horizontal_flip: bool,
    max_steps: Option<i64>,
    processes: i64,
    rank: i64,
    queued: bool,
}

impl Options {
    fn into_core(self) -> Result<train::Options> {
        Ok(train::Options {
            epochs: self.epochs,
            rate: Rate {
                schedule: RateSchedule::parse(&self.lr_schedule)?,
                peak: self.learning_rate,
                epochs: self.epochs,
                warmup_steps: self.warmup_steps,
            },
            weight_decay: self.weight_decay,
            grad_clip: self.grad_clip,
            ema_decay: self.ema_decay,
            ema_warmup: self.ema_warmup,
            precision: Precision::parse(&self.precision)?,
            dropout: self.dropout,
            objective: Objective::parse(&self.objective)?,
            min_snr: self.min_snr_gamma,
            accumulate: self.accumulate,
            flip: self.horizontal_flip,
            max_steps: self.max_steps,
            processes: self.processes,
            rank: self.rank,
            queued: self.queued,
        })
    }
}

/// The core's position, as the dict that checkpoints carry.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Position {
    epoch: i64,
    batch: i64,
    loss_sum: f64,
    losses: i64,
    updates: i64,
    skipped: i64,
    averaged: i64,
    initial_share: f64,
    scale: f64,
    scale_healthy: i64,
    skips_in_a_row: i64,
}

impl From<Position> for train::Position {
    fn from(p: Position) -> Self {
        Self {
            epoch: p.epoch,
            batch: p.batch,
            loss_sum: p.loss_sum,
            losses: p.losses,
            updates: p.updates,
            skipped: p.skipped,
            averaged: p.averaged,
            initial_share: p.initial_share,
            scaler: LossScaler { scale: p.scale, healthy: p.scale_healthy, skips_in_a_row: p.skips_in_a_row },
        }
    }
}

fn position_dict<'py>(py: Python<'py>, p: &train::Position) -> PyResult<Bound<'py, PyDict>> {
    let out = PyDict::new(py);
    out.set_item("epoch", p.epoch)?;
    out.set_item("batch", p.batch)?;
    out.set_item("loss_sum", p.loss_sum)?;
    out.set_item("losses", p.losses)?;
    out.set_item("updates", p.updates)?;
    out.set_item("skipped", p.skipped)?;
    out.set_item("averaged", p.averaged)?;
    out.set_item("initial_share", p.initial_share)?;
    out.set_item("scale", p.scaler.scale)?;
    out.set_item("scale_healthy", p.scaler.healthy)?;
    out.set_item("skips_in_a_row", p.scaler.skips_in_a_row)?;
    Ok(out)
}

/// Where a run from nothing begins.
#[pyfunction]
fn first_position(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    position_dict(py, &train::Position::default())
}

/// The rate of the update after `updates` others, in `epoch`.
#[pyfunction]
fn learning_rate(options: Options, epoch: i64, updates: i64) -> PyResult<f64> {
    Ok(options.into_core().map_err(to_py)?.rate.at(epoch, updates))
}

/// Raises what is wrong with a schedule.
#[pyfunction]
fn check_betas(py: Python<'_>, betas: &Bound<'_, PyAny>) -> PyResult<()> {
    let betas = from_python(betas, "betas")?;
    detached(py, move || Schedule::from_betas(&betas).map(|_| ()))
}

/// The Python object that gives batches and is told how the run goes.
struct PythonHost {
    host: PyObject,
    shown: Option<Instant>,
}

impl Host for PythonHost {
    fn begin_epoch(&mut self, position: &train::Position) -> Result<()> {
        self.shown = None;
        attached(|py| {
            let args = (position_dict(py, position)?,);
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
        let mean = p.loss_sum / p.losses.max(1) as f64;
        attached(|py| {
            let args = (p.batch, report.loss, mean, report.images_per_second);
            self.host.call_method1(py, "show", args).map(|_| ())
        })
    }

    fn end_epoch(&mut self, report: &EpochReport) -> Result<bool> {
        attached(|py| {
            let args =
                (report.epoch, report.loss, report.rate, report.images_per_second, position_dict(py, report.position)?);
            self.host.call_method1(py, "end_epoch", args)?.extract(py)
        })
    }

    fn all_reduce(&mut self, flat: &Tensor) -> Result<()> {
        attached(|py| {
            let args = (to_python(py, flat.shallow_clone())?,);
            self.host.call_method1(py, "all_reduce", args).map(|_| ())
        })
    }

    fn stopped(&mut self, position: &train::Position, within_step: bool) -> Result<()> {
        attached(|py| {
            let args = (position_dict(py, position)?, within_step);
            self.host.call_method1(py, "stopped", args).map(|_| ())
        })
    }
}

/// Train in place: `params` and `shadow` are the modules' own parameters, `moments` two flat float32 buffers. The
/// gradients of the usual batch and the usual update are captured in `graphs` (see [`PythonGraph`]).
#[pyfunction]
#[pyo3(signature = (network, params, shadow, moments, betas, options, position, host, graphs))]
#[allow(clippy::too_many_arguments)]
fn train_network(
    py: Python<'_>,
    network: PyRef<'_, Network>,
    params: &Bound<'_, PyList>,
    shadow: &Bound<'_, PyList>,
    moments: (Bound<'_, PyAny>, Bound<'_, PyAny>),
    betas: &Bound<'_, PyAny>,
    options: Options,
    position: Position,
    host: PyObject,
    graphs: (Option<PyObject>, Option<PyObject>),
) -> PyResult<()> {
    let blueprint = network.blueprint.clone();
    let weights = list_from_python(params, "model.parameters()")?;
    let shadow = list_from_python(shadow, "ema.shadow.parameters()")?;
    let (first, second) = (from_python(&moments.0, "exp_avg")?, from_python(&moments.1, "exp_avg_sq")?);
    let betas = from_python(betas, "betas")?;
    let options = options.into_core().map_err(to_py)?;
    let mut host = PythonHost { host, shown: None };
    detached(py, move || {
        let state = State {
            weights,
            shadow,
            first: Flat::over(first, &blueprint.shapes)?,
            second: Flat::over(second, &blueprint.shapes)?,
        };
        let schedule = Schedule::from_betas(&betas)?;
        let graphs = [graphs.0, graphs.1].map(|graph| graph.map(PythonGraph::boxed));
        Trainer::new(&blueprint, state, &schedule, options, position.into(), graphs)?.run(&mut host)
    })
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("LR_SCHEDULES", PyTuple::new(m.py(), RateSchedule::names())?)?;
    m.add_function(wrap_pyfunction!(first_position, m)?)?;
    m.add_function(wrap_pyfunction!(learning_rate, m)?)?;
    m.add_function(wrap_pyfunction!(check_betas, m)?)?;
    m.add_function(wrap_pyfunction!(train_network, m)?)
}
