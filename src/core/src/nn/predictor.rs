//! A network that predicts with weights that stay: what the samplers call, prepared once for all steps.

use std::sync::Arc;

use tch::{Kind, Tensor};

use super::backend::aten::{cast_products, Aten};
use super::backend::cpu::{self, Wanted};
use super::wiring::{check_inputs, forward};
use super::{Blueprint, Precision};
use crate::diffusion::denoiser::by_autograd;
use crate::diffusion::{Denoiser, Vjp};
use crate::error::{Error, Result};

pub struct Predictor {
    plan: Arc<Blueprint>,
    /// The model's own weights.
    source: Vec<Tensor>,
    /// The same, those of convolutions and matrix products already in the dtype they are computed in.
    params: Vec<Tensor>,
    engine: Option<cpu::Weights>,
    compute: Option<Kind>,
    dropout: f64,
}

impl Predictor {
    /// `dropout` is zero but for a model in training mode.
    pub fn new(plan: &Arc<Blueprint>, params: Vec<Tensor>, precision: Precision, dropout: f64) -> Result<Self> {
        // handles of its own: if the module's parameters are given other memory, these keep theirs
        let params = params.iter().map(Tensor::f_detach).collect::<std::result::Result<Vec<_>, _>>()?;
        let engine = precision.engine(plan, &params, dropout)?;
        let compute = precision.compute();
        let source = params.iter().map(Tensor::shallow_clone).collect();
        let params = if engine.is_some() { params } else { cast_products(params, compute)? };
        Ok(Self { plan: Arc::clone(plan), source, params, engine, compute, dropout })
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

    fn with_libtorch(&self, x: &Tensor, t: &Tensor) -> Result<Tensor> {
        let (dropout, compute) = (self.dropout, self.compute);
        let mut backend = Aten { params: &self.params, dropout, compute, explicit_attention: false };
        forward(&self.plan, &mut backend, x, t)
    }
}

impl Denoiser for Predictor {
    fn predict(&mut self, x: &Tensor, t: &Tensor) -> Result<Tensor> {
        check_inputs(&self.plan, &self.source, x, t)?;
        match &self.engine {
            Some(weights) => cpu::predict(weights, x, t, self.dropout),
            None => self.with_libtorch(x, t),
        }
    }

    fn predict_with_vjp<'a>(&'a mut self, x: &Tensor, t: &Tensor) -> Result<(Tensor, Box<dyn Vjp + 'a>)> {
        check_inputs(&self.plan, &self.source, x, t)?;
        let Some(weights) = &self.engine else {
            return by_autograd(x, |x| Ok(self.with_libtorch(x, t)?.f_to_kind(Kind::Float)?));
        };
        let (prediction, tape) = cpu::forward(weights, x, t, self.dropout, Some(Wanted::INPUT))?;
        Ok((prediction, Box::new(Taped { weights, tape: tape.unwrap_or_default() })))
    }
}

/// The engine's way back to x.
struct Taped<'a> {
    weights: &'a cpu::Weights,
    tape: cpu::Tape,
}

impl Vjp for Taped<'_> {
    fn vjp(&mut self, w: &Tensor) -> Result<Tensor> {
        let dx = self.tape.backward(self.weights, w, None, true)?;
        dx.ok_or_else(|| Error::Runtime("internal error: no gradient to x".into()))
    }
}
