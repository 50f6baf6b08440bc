//! The network: its plan, from which Python builds the module tree, and its forward pass on the module's own tensors.

use std::sync::{Arc, Mutex};

use diffusion_core::nn::blueprint::{Entry, Layer};
use diffusion_core::nn::engine::{self, Prepared, Weights};
use diffusion_core::nn::model::{forward_aten, Predictor};
use diffusion_core::nn::wiring::check_inputs;
use diffusion_core::nn::{Blueprint, UNetConfig};
use diffusion_core::{sampler, Error};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use tch::{Kind, Tensor};

use crate::detach::detached;
use crate::error::to_py;
use crate::tensor::{from_python, list_from_python, to_python};

/// The plan of one network. Holds no weights: they come in with each call and stay where they are.
#[pyclass(frozen, module = "rust_diffusion._native")]
pub struct UNet {
    pub blueprint: Arc<Blueprint>,
    prepared: Arc<Prepared>,
    /// The recording that samplers made last; it is as good for the next images of that size.
    pub recorded: Arc<Mutex<Option<sampler::Recorded<Predictor>>>>,
}

#[pymethods]
impl UNet {
    #[new]
    fn new(
        in_ch: i64,
        base_ch: i64,
        channel_mults: Vec<i64>,
        time_dim: i64,
        dropout: f64,
        attn_levels: Vec<i64>,
        num_heads: i64,
    ) -> PyResult<Self> {
        let config = UNetConfig { in_ch, base_ch, channel_mults, time_dim, dropout, attn_levels, num_heads };
        let blueprint = Blueprint::new(config).map_err(to_py)?;
        Ok(Self { blueprint: Arc::new(blueprint), prepared: Arc::default(), recorded: Arc::default() })
    }

    /// The defaults of the configuration, as keyword arguments.
    #[staticmethod]
    fn defaults(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
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

    /// Height and width of the images must be multiples of this.
    #[getter]
    fn size_multiple(&self) -> i64 {
        self.blueprint.size_multiple()
    }

    /// (path, class name, arguments) of every module in the order of creation, parents first.
    fn modules<'py>(&self, py: Python<'py>) -> PyResult<Vec<(String, &'static str, Bound<'py, PyDict>)>> {
        self.blueprint.entries.iter().map(|entry| describe(py, entry)).collect()
    }

    /// The prediction for x (B, C, H, W) at timesteps t (B,) by the CPU engine, not recorded by torch's autograd. With
    /// `record`, also the tape for its gradients; with `bf16`, convolutions and matrix products in bfloat16.
    fn run<'py>(
        &self,
        py: Python<'py>,
        params: &Bound<'py, PyList>,
        x: &Bound<'py, PyAny>,
        t: &Bound<'py, PyAny>,
        dropout: f64,
        record: bool,
        bf16: bool,
    ) -> PyResult<(Bound<'py, PyAny>, Option<Recording>)> {
        let params = list_from_python(params, "params")?;
        let (x, t) = (from_python(x, "x")?, from_python(t, "t")?);
        let (plan, prepared) = (Arc::clone(&self.blueprint), Arc::clone(&self.prepared));
        let kind = if bf16 { Kind::BFloat16 } else { Kind::Float };
        let (out, recording) = detached(py, move || {
            check_inputs(plan.config.in_ch, plan.size_multiple(), &params, &plan.shapes, &x, &t)?;
            let run = |weights: &Weights| match record {
                true => engine::forward(weights, &x, &t, dropout, true),
                false => Ok((engine::predict(weights, &x, &t, dropout)?, None)),
            };
            let (out, tape) = prepared.with(&plan, &params, kind, run)?;
            let recording = tape.map(|tape| {
                let inner = Recorded { plan, prepared, params, kind, tape };
                Recording { inner: Mutex::new(inner) }
            });
            Ok((out, recording))
        })?;
        Ok((to_python(py, out)?, recording))
    }

    /// Whether the CPU engine can compute the network with these weights and this rate of dropout.
    #[staticmethod]
    fn runs_on_engine(params: &Bound<'_, PyList>, dropout: f64) -> PyResult<bool> {
        Ok(engine::supports(&list_from_python(params, "params")?, dropout))
    }

    /// The same in libtorch operations, recorded by torch's autograd when the caller records, under its autocast.
    fn forward<'py>(
        &self,
        py: Python<'py>,
        params: &Bound<'py, PyList>,
        x: &Bound<'py, PyAny>,
        t: &Bound<'py, PyAny>,
        dropout: f64,
        differentiable_twice: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let params = list_from_python(params, "params")?;
        let (x, t) = (from_python(x, "x")?, from_python(t, "t")?);
        let blueprint = Arc::clone(&self.blueprint);
        let out = detached(py, move || forward_aten(&blueprint, &params, &x, &t, dropout, differentiable_twice))?;
        to_python(py, out)
    }
}

struct Recorded {
    plan: Arc<Blueprint>,
    prepared: Arc<Prepared>,
    params: Vec<Tensor>,
    kind: Kind,
    tape: engine::Tape,
}

/// What an engine's forward pass left behind for its gradients.
#[pyclass(frozen, module = "rust_diffusion._native")]
pub struct Recording {
    inner: Mutex<Recorded>,
}

#[pymethods]
impl Recording {
    /// From d loss / d prediction: the gradient of x (or None) and those of all parameters, in state-dict order.
    #[allow(clippy::type_complexity)]
    fn backward<'py>(
        &self,
        py: Python<'py>,
        d_prediction: &Bound<'py, PyAny>,
        input_wanted: bool,
    ) -> PyResult<(Option<Bound<'py, PyAny>>, Vec<Bound<'py, PyAny>>)> {
        let d_prediction = from_python(d_prediction, "the gradient of the output")?;
        // the lock is taken without the GIL: two threads may run backward on one graph
        let (dx, grads) = detached(py, move || {
            let inner = self.inner.lock().map_err(|_| Error::Runtime("an earlier backward pass failed".into()))?;
            let mut grads = engine::zero_gradients(&inner.plan)?;
            let walk = |weights: &Weights| inner.tape.backward(weights, &d_prediction, &mut grads, input_wanted);
            let dx = inner.prepared.with(&inner.plan, &inner.params, inner.kind, walk)?;
            Ok((dx, grads))
        })?;
        let dx = dx.map(|dx| to_python(py, dx)).transpose()?;
        let grads = grads.into_iter().map(|g| to_python(py, g)).collect::<PyResult<_>>()?;
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
        Layer::GroupNorm { groups, channels } => {
            args.set_item("num_groups", groups)?;
            args.set_item("num_channels", channels)?;
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

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(ema_update, m)?)?;
    m.add_class::<Recording>()?;
    m.add_class::<UNet>()
}
