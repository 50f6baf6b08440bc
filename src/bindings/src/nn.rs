//! The network: its plan, from which Python builds the module tree, and its passes on the module's own tensors.

use std::sync::{Arc, Mutex};

use diffusion_core::choice::Choice;
use diffusion_core::device::Captured;
use diffusion_core::flat::Flat;
use diffusion_core::nn::backend::cpu::{self, Prepared, Stamp, Wanted, Weights};
use diffusion_core::nn::blueprint::{Entry, Layer, TimeAddition};
use diffusion_core::nn::differentiable::forward_aten;
use diffusion_core::nn::predictor::Predictor;
use diffusion_core::nn::presets::{UNet2DConfig, UNetConfig};
use diffusion_core::nn::{Blueprint, Precision};
use diffusion_core::switches::Kernels;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};
use tch::{Device, Kind};

use crate::detach::detached;
use crate::error::to_py;
use crate::tensor::{from_python, list_from_python, to_python};

/// The plan of one network. Holds no weights.
#[pyclass(frozen, module = "rust_diffusion._native")]
pub struct Network {
    pub blueprint: Arc<Blueprint>,
    /// The pass that samplers captured last, until one runs without capturing: as good for the next images of that size.
    pub captured: Arc<Mutex<Option<Captured<Predictor>>>>,
}

impl Network {
    fn of(blueprint: diffusion_core::Result<Blueprint>) -> PyResult<Self> {
        Ok(Self { blueprint: Arc::new(blueprint.map_err(to_py)?), captured: Arc::default() })
    }
}

#[pymethods]
impl Network {
    /// The course's network.
    #[staticmethod]
    fn course(
        in_ch: i64,
        base_ch: i64,
        channel_mults: Vec<i64>,
        time_dim: i64,
        dropout: f64,
        attn_levels: Vec<i64>,
        num_heads: i64,
    ) -> PyResult<Self> {
        let config = UNetConfig { in_ch, base_ch, channel_mults, time_dim, dropout, attn_levels, num_heads };
        Self::of(Blueprint::course(&config))
    }

    /// The defaults of the course's configuration, as keyword arguments.
    #[staticmethod]
    fn course_defaults(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
        let config = UNetConfig::default();
        let out = PyDict::new(py);
        out.set_item("in_ch", config.in_ch)?;
        out.set_item("base_ch", config.base_ch)?;
        out.set_item("channel_mults", config.channel_mults)?;
        out.set_item("time_dim", config.time_dim)?;
        out.set_item("dropout", config.dropout)?;
        out.set_item("attn_levels", config.attn_levels)?;
        out.set_item("num_heads", config.num_heads)?;
        Ok(out)
    }

    /// A network of diffusers' `UNet2DModel` family.
    #[staticmethod]
    #[allow(clippy::too_many_arguments)]
    fn diffusers(
        in_channels: i64,
        out_channels: i64,
        block_out_channels: Vec<i64>,
        down_attention: Vec<bool>,
        up_attention: Vec<bool>,
        layers_per_block: i64,
        norm_num_groups: i64,
        norm_eps: f64,
        downsample_padding: i64,
        flip_sin_to_cos: bool,
        freq_shift: f64,
        attention_head_dim: Option<i64>,
        scale_and_shift: bool,
        dropout: f64,
    ) -> PyResult<Self> {
        let time_addition = if scale_and_shift { TimeAddition::ScaleAndShift } else { TimeAddition::Shift };
        Self::of(Blueprint::diffusers(&UNet2DConfig {
            in_channels,
            out_channels,
            block_out_channels,
            down_attention,
            up_attention,
            layers_per_block,
            norm_num_groups,
            norm_eps,
            downsample_padding,
            flip_sin_to_cos,
            freq_shift,
            attention_head_dim,
            time_addition,
            dropout,
        }))
    }

    #[getter]
    fn in_channels(&self) -> i64 {
        self.blueprint.in_channels
    }

    /// Height and width of the images must be multiples of this.
    #[getter]
    fn size_multiple(&self) -> i64 {
        self.blueprint.size_multiple()
    }

    /// (path, class name, arguments) of every module in the order of creation, parents first.
    fn modules<'py>(&self, py: Python<'py>) -> PyResult<Vec<(String, &'static str, Bound<'py, PyDict>)>> {
        self.blueprint.entries.iter().map(|entry| describe(py, entry)).collect()
    }

    /// Takes handles on a module's parameters, in state-dict order; they stay where they are.
    fn hand_over(&self, params: &Bound<'_, PyList>) -> PyResult<Parameters> {
        let params = list_from_python(params, "params")?;
        Ok(Parameters { inner: Arc::new(Prepared::new(Arc::clone(&self.blueprint), params)) })
    }
}

/// A module's own parameters, handed over once, and what is derived from them.
#[pyclass(frozen, module = "rust_diffusion._native")]
pub struct Parameters {
    pub inner: Arc<Prepared>,
}

#[pymethods]
impl Parameters {
    /// The prediction for x (B, C, H, W) at timesteps t (B,) by the CPU engine, not recorded by torch's autograd. With `wanted`
    /// (gradient to x, gradients to weights), also the tape for those; with `bf16`, convolutions and matrix products in
    /// bfloat16.
    fn run<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        t: &Bound<'py, PyAny>,
        dropout: f64,
        wanted: (bool, bool),
        bf16: bool,
    ) -> PyResult<(Bound<'py, PyAny>, Option<Recording>)> {
        let (x, t) = (from_python(x, "x")?, from_python(t, "t")?);
        let prepared = Arc::clone(&self.inner);
        let kind = kind(bf16);
        let (out, recording) = detached(py, move || {
            prepared.check_inputs(&x, &t)?;
            if wanted == (false, false) {
                let out = prepared.with(kind, |weights, _| cpu::predict(weights, &x, &t, dropout))?;
                return Ok((out, None));
            }
            let wanted = Wanted { input: wanted.0, weights: wanted.1 };
            let pass = |weights: &Weights, stamp| {
                let (out, tape) = cpu::forward(weights, &x, &t, dropout, Some(wanted))?;
                Ok((out, tape, stamp))
            };
            let (out, tape, stamp) = prepared.with(kind, pass)?;
            Ok((out, tape.map(|tape| Recording { inner: Mutex::new(Recorded { prepared, stamp, kind, tape }) })))
        })?;
        Ok((to_python(py, out)?, recording))
    }

    /// What each operation of the CPU engine's pass takes: (kind, seconds), in the order of the network. For the benchmark.
    fn times(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        t: &Bound<'_, PyAny>,
        bf16: bool,
    ) -> PyResult<Vec<(&'static str, f64)>> {
        let (x, t) = (from_python(x, "x")?, from_python(t, "t")?);
        let prepared = Arc::clone(&self.inner);
        let kind = kind(bf16);
        detached(py, move || {
            prepared.check_inputs(&x, &t)?;
            prepared.with(kind, |weights, _| cpu::times(weights, &x, &t))
        })
    }

    /// Whether the CPU engine can compute the network with these weights and this rate of dropout.
    fn runs_on_engine(&self, dropout: f64) -> bool {
        self.inner.runs_on_engine(dropout)
    }

    /// The same in libtorch operations, recorded by torch's autograd when the caller records, under its autocast.
    fn forward<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        t: &Bound<'py, PyAny>,
        dropout: f64,
        differentiable_twice: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (x, t) = (from_python(x, "x")?, from_python(t, "t")?);
        let own = Arc::clone(&self.inner);
        let out = detached(py, move || forward_aten(&own.plan, &own.handles(), &x, &t, dropout, differentiable_twice))?;
        to_python(py, out)
    }
}

/// What convolutions and matrix products are computed in.
fn kind(bf16: bool) -> Kind {
    if bf16 {
        Kind::BFloat16
    } else {
        Kind::Float
    }
}

struct Recorded {
    prepared: Arc<Prepared>,
    stamp: Stamp,
    kind: Kind,
    tape: cpu::Tape,
}

/// What an engine's forward pass left behind for its gradients.
#[pyclass(frozen, module = "rust_diffusion._native")]
pub struct Recording {
    inner: Mutex<Recorded>,
}

/// The gradient of x, and those of all parameters in state-dict order, each if wanted.
type Gradients<'py> = (Option<Bound<'py, PyAny>>, Option<Vec<Bound<'py, PyAny>>>);

#[pymethods]
impl Recording {
    /// From d loss / d prediction to the gradients that are `wanted`: of x, of the weights.
    fn backward<'py>(
        &self,
        py: Python<'py>,
        d_prediction: &Bound<'py, PyAny>,
        wanted: (bool, bool),
    ) -> PyResult<Gradients<'py>> {
        let d_prediction = from_python(d_prediction, "the gradient of the output")?;
        // the lock is taken without the GIL: two threads may run backward on one graph
        let (dx, grads) = detached(py, move || {
            let failed = || diffusion_core::Error::Runtime("an earlier backward pass failed".into());
            let inner = self.inner.lock().map_err(|_| failed())?;
            let zeros = || Flat::zeros(&inner.prepared.plan.shapes, 0, Device::Cpu);
            let mut grads = wanted.1.then(zeros).transpose()?;
            let into = grads.as_mut().map(Flat::views_mut);
            let walk = |weights: &Weights, now| {
                inner.stamp.check(now)?;
                inner.tape.backward(weights, &d_prediction, into, wanted.0)
            };
            Ok((inner.prepared.with(inner.kind, walk)?, grads.map(Flat::into_views)))
        })?;
        let dx = dx.map(|dx| to_python(py, dx)).transpose()?;
        let grads = grads.map(|grads| grads.into_iter().map(|g| to_python(py, g)).collect()).transpose()?;
        Ok((dx, grads))
    }
}

fn describe<'py>(py: Python<'py>, entry: &Entry) -> PyResult<(String, &'static str, Bound<'py, PyDict>)> {
    let args = PyDict::new(py);
    let class = match entry.layer {
        Layer::Container(class) => class,
        Layer::Conv2d { cin, cout, kernel, stride, padding } => {
            args.set_item("in_channels", cin)?;
            args.set_item("out_channels", cout)?;
            args.set_item("kernel_size", kernel)?;
            args.set_item("stride", stride)?;
            args.set_item("padding", padding)?;
            "Conv2d"
        }
        Layer::Linear { cin, cout } => {
            args.set_item("in_features", cin)?;
            args.set_item("out_features", cout)?;
            "Linear"
        }
        Layer::GroupNorm { groups, channels, eps } => {
            args.set_item("num_groups", groups)?;
            args.set_item("num_channels", channels)?;
            args.set_item("eps", eps)?;
            "GroupNorm"
        }
        Layer::MultiheadAttention { channels, heads } => {
            args.set_item("embed_dim", channels)?;
            args.set_item("num_heads", heads)?;
            "MultiheadAttention"
        }
        Layer::SiLU => "SiLU",
        Layer::Dropout { p } => {
            args.set_item("p", p)?;
            "Dropout"
        }
        Layer::Identity => "Identity",
    };
    Ok((entry.path.clone(), class, args))
}

/// shadow = decay * shadow + (1 - decay) * weights, in place.
#[pyfunction]
fn ema_update(py: Python<'_>, shadow: &Bound<'_, PyList>, weights: &Bound<'_, PyList>, decay: f64) -> PyResult<()> {
    let (shadow, weights) = (list_from_python(shadow, "shadow")?, list_from_python(weights, "weights")?);
    detached(py, move || diffusion_core::ema::ema_update(&shadow, &weights, decay))
}

/// What computes networks on the CPU here: "AMX", "AVX-512", "AVX2", "portable" or "libtorch".
#[pyfunction]
fn kernels() -> &'static str {
    Kernels::in_use().name()
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("PRECISIONS", PyTuple::new(m.py(), Precision::names())?)?;
    m.add_function(wrap_pyfunction!(ema_update, m)?)?;
    m.add_function(wrap_pyfunction!(kernels, m)?)?;
    m.add_class::<Recording>()?;
    m.add_class::<Parameters>()?;
    m.add_class::<Network>()
}
