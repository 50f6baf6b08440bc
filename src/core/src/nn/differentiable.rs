//! A network in training: predictions, then the gradients for them.

use std::sync::Arc;

use tch::{Kind, Tensor};

use super::backend::aten::Aten;
use super::backend::cpu::{self, Wanted};
use super::wiring::{check_inputs, forward};
use super::{Blueprint, Precision};
use crate::error::{ensure, Error, Result};
use crate::libtorch::add_each;

/// What the trainer asks of a network.
pub trait Differentiable {
    /// The float32 prediction for x (B, C, H, W) at t (B,) in training mode; remembers what [`Self::backward`] needs.
    fn forward(&mut self, x: &Tensor, t: &Tensor) -> Result<Tensor>;
    /// Given d loss / d prediction, add d loss / d parameter to each of `grads` (float32, in state-dict order).
    fn backward(&mut self, d_prediction: &Tensor, grads: &mut [Tensor]) -> Result<()>;
    /// The weights have changed: drop whatever was derived from them.
    fn weights_changed(&mut self) -> Result<()>;
}

/// Add to each gradient what was found of it; a parameter that had no part in the prediction has none.
pub fn add_found(grads: &mut [Tensor], found: Vec<Option<Tensor>>) -> Result<()> {
    for (sum, gradient) in grads.iter_mut().zip(found) {
        if let Some(gradient) = gradient {
            let _ = sum.f_add_(&gradient)?;
        }
    }
    Ok(())
}

/// The fastest way to train this network on the device where its weights are.
pub fn differentiable(
    plan: &Arc<Blueprint>,
    params: Vec<Tensor>,
    precision: Precision,
    dropout: f64,
) -> Result<Box<dyn Differentiable + Send>> {
    if let Some(weights) = precision.engine(plan, &params, dropout)? {
        return Ok(Box::new(Engine { weights, dropout, tape: None }));
    }
    Ok(Box::new(Autograd::new(Arc::clone(plan), &params, precision.compute(), dropout)?))
}

/// One forward pass through torch's autograd, with a rate of dropout. `differentiable_twice` avoids the fused attention
/// kernels, which have no second derivative.
pub fn forward_aten(
    plan: &Blueprint,
    params: &[Tensor],
    x: &Tensor,
    t: &Tensor,
    dropout: f64,
    differentiable_twice: bool,
) -> Result<Tensor> {
    check_inputs(plan, params, x, t)?;
    let mut backend = Aten { params, dropout, compute: None, explicit_attention: differentiable_twice };
    forward(plan, &mut backend, x, t)
}

/// [`Differentiable`] on the CPU engine.
struct Engine {
    weights: cpu::Weights,
    dropout: f64,
    tape: Option<cpu::Tape>,
}

impl Differentiable for Engine {
    fn forward(&mut self, x: &Tensor, t: &Tensor) -> Result<Tensor> {
        check_inputs(&self.weights.plan, &self.weights.params, x, t)?;
        let (prediction, tape) = cpu::forward(&self.weights, x, t, self.dropout, Some(Wanted::WEIGHTS))?;
        self.tape = tape;
        Ok(prediction)
    }

    fn backward(&mut self, d_prediction: &Tensor, grads: &mut [Tensor]) -> Result<()> {
        let tape = self.tape.take().ok_or_else(|| Error::Runtime("backward without a forward".into()))?;
        tape.consume(&self.weights, d_prediction, grads)
    }

    fn weights_changed(&mut self) -> Result<()> {
        self.weights.refresh()
    }
}

/// [`Differentiable`] by way of torch's autograd, for every device.
pub struct Autograd {
    plan: Arc<Blueprint>,
    params: Vec<Tensor>,
    compute: Option<Kind>,
    dropout: f64,
    prediction: Option<Tensor>,
}

impl Autograd {
    /// `params` are the module's own float32 tensors; `compute` is the dtype of convolutions and matrix products.
    pub fn new(plan: Arc<Blueprint>, params: &[Tensor], compute: Option<Kind>, dropout: f64) -> Result<Self> {
        // leaves of its own on the same memory: what else the caller's autograd knows of them stays out of recordings
        let own = |param: &Tensor| Ok(param.f_detach()?.set_requires_grad(param.requires_grad()));
        let params = params.iter().map(own).collect::<Result<_>>()?;
        Ok(Self { plan, params, compute, dropout, prediction: None })
    }
}

impl Differentiable for Autograd {
    fn forward(&mut self, x: &Tensor, t: &Tensor) -> Result<Tensor> {
        self.prediction = None;
        let plan = &self.plan;
        check_inputs(plan, &self.params, x, t)?;
        let mut backend =
            Aten { params: &self.params, dropout: self.dropout, compute: self.compute, explicit_attention: false };
        // the conversion too: outside, it would cut the prediction off from its graph
        let prediction =
            tch::with_grad(|| -> Result<_> { Ok(forward(plan, &mut backend, x, t)?.f_to_kind(Kind::Float)?) })?;
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
