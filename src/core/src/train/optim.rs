//! AdamW (Loshchilov and Hutter 2019) and the averaged weights, with the arithmetic of `torch.optim.AdamW`.

use diffusion_kernels::optim as kernel;
use tch::{Kind, Tensor};

use super::flat::Flat;
use crate::ema::ema_update;
use crate::error::{ensure, Result};
use crate::libtorch::{adamw, adamw_in_place, InPlace, Moving, OnDevice};

pub const BETAS: (f64, f64) = (0.9, 0.999);
pub const EPS: f64 = 1e-8;
/// Keeps the clipping factor finite, as in torch.nn.utils.clip_grad_norm_.
const CLIP_EPS: f64 = 1e-6;

/// The tensors that training changes in place; they belong to the host.
pub struct State {
    pub weights: Vec<Tensor>,
    pub shadow: Vec<Tensor>,
    /// Running mean of the gradient, and of its square.
    pub first: Flat,
    pub second: Flat,
}

impl State {
    pub fn check(&self, shapes: &[Vec<i64>]) -> Result<()> {
        for (name, tensors) in [("model", &self.weights), ("ema.shadow", &self.shadow)] {
            ensure!(
                tensors.len() == shapes.len(),
                Value,
                "{name} must have {} parameters, got {}",
                shapes.len(),
                tensors.len()
            );
            let device = self.first.all().device();
            for (index, (tensor, shape)) in tensors.iter().zip(shapes).enumerate() {
                ensure!(
                    tensor.size() == *shape && tensor.device() == device,
                    Value,
                    "parameter {index} of {name} must be {shape:?} on {device:?}, got {:?} on {:?}",
                    tensor.size(),
                    tensor.device()
                );
                let kind = tensor.f_kind()?;
                ensure!(kind == Kind::Float, Type, "{name} must hold float32 weights, parameter {index} is {kind:?}");
            }
        }
        Ok(())
    }

    /// Where the weights and their averages lie in memory.
    pub fn places(&self) -> Vec<usize> {
        self.weights.iter().chain(&self.shadow).map(|tensor| tensor.data_ptr() as usize).collect()
    }

    /// Whether the kernels can work on these tensors: on the CPU, each in one dense row-major block.
    fn in_plain_memory(&self) -> bool {
        let plain = |t: &Tensor| t.device() == tch::Device::Cpu && t.is_contiguous();
        self.weights.iter().chain(&self.shadow).all(plain)
    }

    /// shadow = decay * shadow + (1 - decay) * weights.
    pub fn average(&mut self, decay: f64) -> Result<()> {
        ema_update(&self.shadow, &self.weights, decay)
    }
}

/// What to multiply the gradient with so that its norm is at most `most`.
pub fn clip_factor(norm: f64, most: f64) -> f64 {
    (most / (norm + CLIP_EPS)).min(1.0)
}

/// min(decay, (1 + n) / (10 + n)) after n updates: early averages forget the initial weights fast.
pub fn decay_after_warmup(decay: f64, updates: i64) -> f64 {
    let n = updates as f64;
    decay.min((1.0 + n) / (10.0 + n))
}

pub struct AdamW {
    weight_decay: f64,
}

impl AdamW {
    pub fn new(weight_decay: f64) -> Self {
        Self { weight_decay }
    }

    /// Update number `step` (from 1) with the gradient `factor * grads`, then the average of the new weights.
    pub fn step(
        &self,
        state: &mut State,
        grads: &mut Flat,
        factor: f64,
        rate: f64,
        step: i64,
        decay: f64,
    ) -> Result<()> {
        if state.in_plain_memory() {
            return self.step_in_one_pass(state, grads, factor, rate, step, decay);
        }
        let mut gradient = grads.parameters()?;
        if factor != 1.0 {
            let _ = gradient.f_mul_scalar_(factor)?;
        }
        let moves = self.moves(state, &gradient, rate, step)?;
        let moves = Flat::over(moves, &sizes(&state.weights))?;
        for (weight, change) in state.weights.iter().zip(moves.views()) {
            let mut weight = weight.f_detach()?;
            let _ = weight.f_mul_scalar_(1.0 - rate * self.weight_decay)?.f_sub_(change)?;
        }
        state.average(decay)
    }

    /// The same by the CPU kernel, which reads and writes each number once.
    fn step_in_one_pass(
        &self,
        state: &mut State,
        grads: &Flat,
        factor: f64,
        rate: f64,
        step: i64,
        decay: f64,
    ) -> Result<()> {
        let adamw = kernel::AdamW {
            learning_rate: rate,
            betas: BETAS,
            eps: EPS,
            weight_decay: self.weight_decay,
            step: step.unsigned_abs(),
        };
        for (k, gradient) in grads.views().iter().enumerate() {
            let state = InPlace {
                weights: &state.weights[k],
                first: &state.first.views()[k],
                second: &state.second.views()[k],
                ema: (decay, &state.shadow[k]),
            };
            adamw_in_place(&adamw, factor as f32, gradient, &state)?;
        }
        Ok(())
    }

    /// What to divide a gradient of norm `norm` by so that its norm is at most `most`, as a tensor on its device.
    pub fn divisor(&self, norm: &Tensor, most: f64) -> Result<Tensor> {
        Ok(norm.f_add_scalar(CLIP_EPS)?.f_div_scalar(most)?.f_clamp_min(1.0)?)
    }

    /// The step by torch's fused operation; its numbers may be ones that the device has yet to compute.
    pub fn step_on_device(&self, state: &mut State, grads: &mut Flat, numbers: &OnDevice) -> Result<()> {
        let moving = Moving {
            weights: &state.weights,
            gradients: grads.views(),
            first: state.first.views(),
            second: state.second.views(),
        };
        adamw(&moving, numbers, [BETAS.0, BETAS.1, self.weight_decay, EPS])
    }

    /// rate * m_hat / (sqrt(v_hat) + eps) for all parameters at once.
    fn moves(&self, state: &mut State, gradient: &Tensor, rate: f64, step: i64) -> Result<Tensor> {
        let steps = i32::try_from(step).unwrap_or(i32::MAX);
        let (mut first, mut second) = (state.first.parameters()?, state.second.parameters()?);
        let _ = first.f_lerp_(gradient, 1.0 - BETAS.0)?;
        let squares = gradient.f_square()?.f_mul_scalar(1.0 - BETAS.1)?;
        let _ = second.f_mul_scalar_(BETAS.1)?.f_add_(&squares)?;
        let denominator = second.f_sqrt()?.f_div_scalar((1.0 - BETAS.1.powi(steps)).sqrt())?.f_add_scalar(EPS)?;
        let rate = rate / (1.0 - BETAS.0.powi(steps));
        Ok(first.f_div(&denominator)?.f_mul_scalar(rate)?)
    }
}

fn sizes(tensors: &[Tensor]) -> Vec<Vec<i64>> {
    tensors.iter().map(Tensor::size).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    /// Two equal weights, dense or with a gap between them.
    fn state(weight: f64, dense: bool) -> State {
        let shapes = [vec![2]];
        let one = |value: f64| {
            let all = Tensor::full([4], value, (Kind::Float, Device::Cpu));
            vec![if dense { all.narrow(0, 0, 2) } else { all.slice(0, 0, 4, 2) }]
        };
        State {
            weights: one(weight),
            shadow: one(weight),
            first: Flat::zeros(&shapes, 0, Device::Cpu).expect("a buffer"),
            second: Flat::zeros(&shapes, 0, Device::Cpu).expect("a buffer"),
        }
    }

    /// By hand, in f64, for one weight.
    #[test]
    fn steps_follow_the_papers_formula() {
        let (rate, decay, wd) = (0.1, 0.9, 0.01);
        for in_one_pass in [true, false] {
            follow_by_hand(rate, decay, wd, in_one_pass);
        }
    }

    fn follow_by_hand(rate: f64, decay: f64, wd: f64, in_one_pass: bool) {
        let mut state = state(1.0, in_one_pass);
        assert_eq!(state.in_plain_memory(), in_one_pass);
        let mut grads = Flat::zeros(&[vec![2]], 1, Device::Cpu).expect("a buffer");
        let (mut w, mut m, mut v, mut average) = (1.0f64, 0.0, 0.0, 1.0);
        for (k, g) in [0.5f64, -0.25, 2.0].into_iter().enumerate() {
            let _ = grads.views_mut()[0].fill_(2.0 * g);
            AdamW::new(wd).step(&mut state, &mut grads, 0.5, rate, k as i64 + 1, decay).expect("a step");
            m = 0.9 * m + 0.1 * g;
            v = 0.999 * v + 0.001 * g * g;
            let (mh, vh) = (m / (1.0 - 0.9f64.powi(k as i32 + 1)), v / (1.0 - 0.999f64.powi(k as i32 + 1)));
            w = w * (1.0 - rate * wd) - rate * mh / (vh.sqrt() + 1e-8);
            average = decay * average + (1.0 - decay) * w;
            assert!((state.weights[0].double_value(&[1]) - w).abs() < 1e-6);
            assert!((state.shadow[0].double_value(&[1]) - average).abs() < 1e-6);
        }
    }

    #[test]
    fn clipping_only_shortens() {
        assert_eq!(clip_factor(0.5, 1.0), 1.0);
        assert!((clip_factor(4.0, 1.0) - 0.25).abs() < 1e-6);
        assert_eq!(clip_factor(4.0, f64::INFINITY), 1.0);
    }

    #[test]
    fn warm_up_ends_at_the_decay() {
        assert!((decay_after_warmup(0.9995, 0) - 0.1).abs() < 1e-12);
        assert_eq!(decay_after_warmup(0.9, 1_000_000), 0.9);
    }
}
