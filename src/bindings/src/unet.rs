//! The network: its plan, from which Python builds the module tree, and its forward pass on the module's own tensors.

use std::sync::Arc;

use diffusion_core::nn::blueprint::{Entry, Layer};
use diffusion_core::nn::model::forward_aten;
use diffusion_core::nn::{Blueprint, UNetConfig};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::detach::detached;
use crate::error::to_py;
use crate::tensor::{from_python, list_from_python, to_python};

/// The plan of one network. Holds no weights: they come in with each call and stay where they are.
#[pyclass(frozen, module = "rust_diffusion._native")]
pub struct UNet {
    pub blueprint: Arc<Blueprint>,
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
        let config = UNetConfig {
            in_ch,
            base_ch,
            channel_mults,
            time_dim,
            dropout,
            attn_levels,
            num_heads,
        };
        let blueprint = Blueprint::new(config).map_err(to_py)?;
        Ok(Self {
            blueprint: Arc::new(blueprint),
        })
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
    fn modules<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<Vec<(String, &'static str, Bound<'py, PyDict>)>> {
        self.blueprint
            .entries
            .iter()
            .map(|entry| describe(py, entry))
            .collect()
    }

    /// The prediction for x (B, C, H, W) at timesteps t (B,), recorded by torch's autograd when the caller records.
    fn forward<'py>(
        &self,
        py: Python<'py>,
        params: &Bound<'py, PyList>,
        x: &Bound<'py, PyAny>,
        t: &Bound<'py, PyAny>,
        training: bool,
        differentiable_twice: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let params = list_from_python(params, "params")?;
        let (x, t) = (from_python(x, "x")?, from_python(t, "t")?);
        let blueprint = Arc::clone(&self.blueprint);
        let out = detached(py, move || {
            forward_aten(&blueprint, &params, &x, &t, training, differentiable_twice)
        })?;
        to_python(py, out)
    }
}

fn describe<'py>(
    py: Python<'py>,
    entry: &Entry,
) -> PyResult<(String, &'static str, Bound<'py, PyDict>)> {
    let args = PyDict::new(py);
    let class = match entry.layer {
        Layer::Container(class) => class,
        Layer::Conv2d {
            cin,
            cout,
            kernel,
            stride,
            padding,
        } => {
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
fn ema_update(
    py: Python<'_>,
    shadow: &Bound<'_, PyList>,
    weights: &Bound<'_, PyList>,
    decay: f64,
) -> PyResult<()> {
    let (shadow, weights) = (
        list_from_python(shadow, "shadow")?,
        list_from_python(weights, "weights")?,
    );
    detached(py, move || {
        diffusion_core::ema::ema_update(&shadow, &weights, decay)
    })
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(ema_update, m)?)?;
    m.add_class::<UNet>()
}
