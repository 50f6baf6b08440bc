//! A network that predicts with weights that stay: what the samplers call, prepared once for all steps, and for the next run if
//! they are the same by then.

use std::sync::Arc;

use tch::{Kind, Tensor};

use super::backend::aten::Aten;
use super::backend::cpu::{self, Prepared, Stamp, Wanted};
use super::wiring::{check_inputs, forward};
use super::{Blueprint, Precision};
use crate::diffusion::denoiser::by_autograd;
use crate::diffusion::{Denoiser, Vjp};
use crate::error::{Error, Result};

pub struct Predictor {
    plan: Arc<Blueprint>,
    /// The model's own weights.
    source: Vec<Tensor>,
    /// The same, already in the dtype they are computed in.
    params: Vec<Tensor>,
    /// On loan from `home`, with the stamp that they had there.
    engine: Option<cpu::Weights>,
    home: Option<(Arc<Prepared>, Stamp)>,
    compute: Option<Kind>,
    dropout: f64,
}

impl Predictor {
    /// `dropout` is zero but for a model in training mode.
    pub fn new(prepared: &Arc<Prepared>, precision: Precision, dropout: f64) -> Result<Self> {
        // handles of its own: if the module's parameters are given other memory, these keep theirs
        let source = prepared.handles().iter().map(Tensor::f_detach).collect::<std::result::Result<Vec<_>, _>>()?;
        let compute = precision.compute();
        let on_loan = match precision.engine_kind().filter(|_| prepared.runs_on_engine(dropout)) {
            Some(kind) => Some(prepared.take(kind)?),
            None => None,
        };
        let cast = |param: &Tensor| match compute {
            Some(kind) if on_loan.is_none() => param.f_to_kind(kind),
            _ => Ok(param.shallow_clone()),
        };
        let params = source.iter().map(cast).collect::<std::result::Result<_, _>>()?;
        let (stamp, engine) = on_loan.unzip();
        let home = stamp.map(|stamp| (Arc::clone(prepared), stamp));
        Ok(Self { plan: Arc::clone(&prepared.plan), source, params, engine, home, compute, dropout })
    }

    /// Whether it was made of these weights and settings (and not for the CPU's engine, whose weights are on loan).
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

impl Drop for Predictor {
    fn drop(&mut self) {
        if let (Some(weights), Some((home, stamp))) = (self.engine.take(), self.home.take()) {
            home.keep(stamp, weights);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::presets::UNetConfig;
    use tch::Device;

    fn network() -> Arc<Prepared> {
        let config = UNetConfig { base_ch: 16, channel_mults: vec![1], attn_levels: vec![], ..UNetConfig::default() };
        let plan = Arc::new(Blueprint::course(&config).expect("a plan"));
        let float = (Kind::Float, Device::Cpu);
        let params = plan.shapes.iter().map(|shape| Tensor::randn(&shape[..], float)).collect();
        Arc::new(Prepared::new(plan, params))
    }

    #[test]
    fn what_one_run_prepared_serves_the_next_until_weights_change() {
        let prepared = network();
        // bfloat16 weights are copies: where they lie tells whether they were made anew
        let place = || {
            let predictor = Predictor::new(&prepared, Precision::Bf16, 0.0).expect("a predictor");
            let weights = predictor.engine.as_ref()?;
            let copy = weights.compute(1).ok()?;
            Some((copy.data_ptr() as usize, copy.f_get(0).ok()?.double_value(&[])))
        };
        let Some(first) = place() else { return }; // no vector code here, so no engine
        assert_eq!(place(), Some(first));
        let _ = prepared.handles()[1].fill_(3.0);
        assert_eq!(place().map(|(_, value)| value), Some(3.0));
    }
}
