//! A network together with its weights, in the forms that the module face, the samplers and the trainer use.

use std::sync::Arc;

use tch::{Kind, Tensor};

use super::aten::Aten;
use super::wiring::{check_inputs, forward};
use super::{engine, Blueprint};
use crate::diffusion::Denoiser;
use crate::error::{ensure, Error, Result};
use crate::libtorch::{add_each, laid_out, Layout};

/// One forward pass through torch's autograd, with a rate of dropout. `differentiable_twice` avoids the fused attention
/// kernels, which have no second derivative.
pub fn forward_aten(
    blueprint: &Blueprint,
    params: &[Tensor],
    x: &Tensor,
    t: &Tensor,
    dropout: f64,
    differentiable_twice: bool,
) -> Result<Tensor> {
    check_inputs(blueprint.config.in_ch, blueprint.size_multiple(), params, &blueprint.shapes, x, t)?;
    let mut backend = Aten { params, dropout, compute: None, explicit_attention: differentiable_twice };
    forward(&blueprint.net, &mut backend, x, t)
}

/// What the trainer asks of a network: a prediction, then the gradients for it.
pub trait Differentiable {
    /// The float32 prediction for x (B, C, H, W) at t (B,) in training mode; remembers what [`Self::backward`] needs.
    fn forward(&mut self, x: &Tensor, t: &Tensor) -> Result<Tensor>;
    /// Given d loss / d prediction, add d loss / d parameter to each of `grads` (float32, in state-dict order).
    fn backward(&mut self, d_prediction: &Tensor, grads: &mut [Tensor]) -> Result<()>;
    /// The weights have changed: drop whatever was derived from them.
    fn weights_changed(&mut self) -> Result<()>;
}

/// What convolutions and matrix products are computed in. Weights, group statistics, loss and schedule stay float32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    Fp32,
    Bf16,
    Fp16,
}

impl Precision {
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "fp32" => Ok(Self::Fp32),
            "bf16" => Ok(Self::Bf16),
            "fp16" => Ok(Self::Fp16),
            other => Err(Error::Value(format!("precision must be \"fp32\", \"bf16\" or \"fp16\", got \"{other}\""))),
        }
    }

    /// The dtype of convolutions and matrix products, where it is not the weights' own.
    fn compute(self) -> Option<Kind> {
        match self {
            Self::Fp32 => None,
            Self::Bf16 => Some(Kind::BFloat16),
            Self::Fp16 => Some(Kind::Half),
        }
    }

    /// The engine's weights, if the engine computes this network at this precision.
    fn engine(self, blueprint: &Arc<Blueprint>, params: &[Tensor], dropout: f64) -> Result<Option<engine::Weights>> {
        if self == Self::Fp16 || !engine::supports(params, dropout) {
            return Ok(None);
        }
        engine::Weights::new(Arc::clone(blueprint), params, self.compute().unwrap_or(Kind::Float)).map(Some)
    }
}

/// A network that only predicts, without gradients: what the samplers call, prepared once for all steps.
pub struct Predictor {
    blueprint: Arc<Blueprint>,
    /// The model's own weights.
    source: Vec<Tensor>,
    /// The same, those of convolutions and matrix products already in the dtype they are computed in.
    params: Vec<Tensor>,
    engine: Option<engine::Weights>,
    compute: Option<Kind>,
    dropout: f64,
}

impl Predictor {
    /// `dropout` is zero but for a model in training mode.
    pub fn new(blueprint: &Arc<Blueprint>, params: Vec<Tensor>, precision: Precision, dropout: f64) -> Result<Self> {
        // handles of its own: if the module's parameters are given other memory, these keep theirs
        let params = params.iter().map(Tensor::f_detach).collect::<std::result::Result<Vec<_>, _>>()?;
        let engine = precision.engine(blueprint, &params, dropout)?;
        let compute = precision.compute();
        let source = params.iter().map(Tensor::shallow_clone).collect();
        let params = if engine.is_some() { params } else { cast_products(params, compute)? };
        Ok(Self { blueprint: Arc::clone(blueprint), source, params, engine, compute, dropout })
    }

    /// Whether it was made of these weights and settings (and not for the CPU's engine, which repacks weights).
    pub fn is_of(&self, params: &[Tensor], precision: Precision, dropout: f64) -> bool {
        let same = |a: &Tensor, b: &Tensor| a.data_ptr() == b.data_ptr() && a.kind() == b.kind();
        self.engine.is_none()
            && self.compute == precision.compute()
            && self.dropout == dropout
            && self.source.len() == params.len()
            && self.source.iter().zip(params).all(|(a, b)| same(a, b))
    }

    /// Takes over what the model's weights are now, in place.
    pub fn refresh(&mut self) -> Result<()> {
        for (own, source) in self.params.iter_mut().zip(&self.source) {
            if own.data_ptr() != source.data_ptr() {
                own.f_copy_(source)?;
            }
        }
        Ok(())
    }
}

/// Weights of two and more dimensions, and the biases behind them, in the dtype (and layout) of the products; norms keep
/// theirs.
fn cast_products(params: Vec<Tensor>, compute: Option<Kind>) -> Result<Vec<Tensor>> {
    let Some(kind) = compute else { return Ok(params) };
    let mut after_weight = false;
    let cast = |param: Tensor| {
        let is_weight = param.dim() > 1;
        let of_product = is_weight || after_weight;
        after_weight = is_weight;
        match (of_product, param.dim()) {
            (true, 4) => laid_out(&param, kind, Layout::ChannelsLast),
            (true, _) => Ok(param.f_to_kind(kind)?),
            (false, _) => Ok(param),
        }
    };
    params.into_iter().map(cast).collect()
}

impl Denoiser for Predictor {
    fn predict(&mut self, x: &Tensor, t: &Tensor) -> Result<Tensor> {
        let plan = &self.blueprint;
        check_inputs(plan.config.in_ch, plan.size_multiple(), &self.source, &plan.shapes, x, t)?;
        if let Some(weights) = &self.engine {
            return engine::predict(weights, x, t, self.dropout);
        }
        let dropout = self.dropout;
        let mut backend = Aten { params: &self.params, dropout, compute: self.compute, explicit_attention: false };
        forward(&plan.net, &mut backend, x, t)
    }
}

/// The fastest way to train this network on the device where its weights are.
pub fn differentiable(
    blueprint: &Arc<Blueprint>,
    params: Vec<Tensor>,
    precision: Precision,
    dropout: f64,
) -> Result<Box<dyn Differentiable + Send>> {
    if let Some(weights) = precision.engine(blueprint, &params, dropout)? {
        return Ok(Box::new(engine::Trained::new(weights, dropout)));
    }
    Ok(Box::new(Autograd::new(Arc::clone(blueprint), &params, precision.compute(), dropout)?))
}

/// [`Differentiable`] by way of torch's autograd, for every device.
pub struct Autograd {
    blueprint: Arc<Blueprint>,
    params: Vec<Tensor>,
    compute: Option<Kind>,
    dropout: f64,
    prediction: Option<Tensor>,
}

impl Autograd {
    /// `params` are the module's own float32 tensors; `compute` is the dtype of convolutions and matrix products.
    pub fn new(blueprint: Arc<Blueprint>, params: &[Tensor], compute: Option<Kind>, dropout: f64) -> Result<Self> {
        // leaves of its own on the same memory: what else the caller's autograd knows of them stays out of recordings
        let own = |param: &Tensor| Ok(param.f_detach()?.set_requires_grad(param.requires_grad()));
        let params = params.iter().map(own).collect::<Result<_>>()?;
        Ok(Self { blueprint, params, compute, dropout, prediction: None })
    }
}

impl Differentiable for Autograd {
    fn forward(&mut self, x: &Tensor, t: &Tensor) -> Result<Tensor> {
        self.prediction = None;
        let plan = &self.blueprint;
        check_inputs(plan.config.in_ch, plan.size_multiple(), &self.params, &plan.shapes, x, t)?;
        let mut backend =
            Aten { params: &self.params, dropout: self.dropout, compute: self.compute, explicit_attention: false };
        // the conversion too: outside, it would cut the prediction off from its graph
        let prediction =
            tch::with_grad(|| -> Result<_> { Ok(forward(&plan.net, &mut backend, x, t)?.f_to_kind(Kind::Float)?) })?;
        self.prediction = Some(prediction.shallow_clone());
        Ok(prediction.f_detach()?)
    }

    fn backward(&mut self, d_prediction: &Tensor, grads: &mut [Tensor]) -> Result<()> {
        let prediction = self.prediction.take().ok_or_else(|| Error::Runtime("backward without a forward".into()))?;
        ensure!(grads.len() == self.params.len(), Value, "grads must have {} entries", self.params.len());
        // d/dp <prediction, d_prediction> is the vector-Jacobian product that backward stands for
        let inner = tch::with_grad(|| prediction.f_mul(d_prediction)?.f_sum(Kind::Float))?;
        ensure!(inner.requires_grad(), Value, "model has no weight that requires a gradient");
        let fresh = Tensor::f_run_backward(&[inner], &self.params, false, false)?;
        add_each(grads, &fresh)
    }

    fn weights_changed(&mut self) -> Result<()> {
        Ok(())
    }
}
