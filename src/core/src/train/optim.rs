//! AdamW (Loshchilov and Hutter 2019) and the averaged weights, with the arithmetic of `torch.optim.AdamW`: by a kernel of
//! ours on the CPU, by torch's fused operation on accelerators.

use diffusion_kernels::optim as kernel;
use tch::{Device, Kind, Tensor};

use crate::ema::ema_update;
use crate::error::{ensure, Result};
use crate::flat::Flat;
use crate::libtorch::{adamw, adamw_in_place, InPlace, Moving, OnDevice};

/// The defaults of `torch.optim.AdamW`.
pub const ADAM_BETAS: (f64, f64) = (0.9, 0.999);
pub const ADAM_EPS: f64 = 1e-8;
/// Keeps the clipping factor finite, as in torch.nn.utils.clip_grad_norm_.
const CLIP_EPS: f64 = 1e-6;

/// The tensors that training changes in place; they belong to the host.
pub struct TrainingTensors {
    pub weights: Vec<Tensor>,
    pub shadow: Vec<Tensor>,
    /// Running mean of the gradient, and of its square.
    pub first: Flat,
    pub second: Flat,
}

impl TrainingTensors {
    /// `first` and `second` are flat buffers.
    pub fn new(weights: Vec<Tensor>, shadow: Vec<Tensor>, first: Tensor, second: Tensor) -> Result<Self> {
        let shapes: Vec<_> = weights.iter().map(Tensor::size).collect();
        ensure!(!shapes.is_empty(), Value, "model must have parameters to train");
        let (first, second) = (Flat::over(first, &shapes)?, Flat::over(second, &shapes)?);
        let tensors = Self { weights, shadow, first, second };
        tensors.check(&shapes)?;
        Ok(tensors)
    }

    fn check(&self, shapes: &[Vec<i64>]) -> Result<()> {
        let device = self.first.all().device();
        for (name, tensors) in [("model", &self.weights), ("ema.shadow", &self.shadow)] {
            let (want, got) = (shapes.len(), tensors.len());
            ensure!(want == got, Value, "{name} must have {want} parameters to train, got {got}");
            for (index, (tensor, shape)) in tensors.iter().zip(shapes).enumerate() {
                let (size, place) = (tensor.size(), tensor.device());
                ensure!(
                    size == *shape && place == device && tensor.is_contiguous(),
                    Value,
                    "parameter {index} of {name} must be {shape:?} row by row on {device:?}, got {size:?} on {place:?}"
                );
                let kind = tensor.f_kind()?;
                ensure!(kind == Kind::Float, Type, "{name} must hold float32 weights, parameter {index} is {kind:?}");
            }
        }
        Ok(())
    }

    pub fn shapes(&self) -> Vec<Vec<i64>> {
        self.weights.iter().map(Tensor::size).collect()
    }

    pub fn device(&self) -> Device {
        self.first.all().device()
    }

    /// Where the weights and their averages lie in memory.
    pub fn places(&self) -> Vec<usize> {
        self.weights.iter().chain(&self.shadow).map(|tensor| tensor.data_ptr() as usize).collect()
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

/// What to divide a gradient by so that its norm is at most `most`, as a tensor on its device.
pub fn clip_divisor(norm: &Tensor, most: f64) -> Result<Tensor> {
    Ok(norm.f_add_scalar(CLIP_EPS)?.f_div_scalar(most)?.f_clamp_min(1.0)?)
}

/// An update whose numbers the host knows.
pub struct Step {
    /// Counted from 1.
    pub number: i64,
    /// What to multiply the gradients with.
    pub factor: f64,
    pub rate: f64,
    /// Of the averaged weights.
    pub decay: f64,
}

pub struct AdamW {
    weight_decay: f64,
}

impl AdamW {
    pub fn new(weight_decay: f64) -> Self {
        Self { weight_decay }
    }

    /// One update, then the average of the new weights.
    pub fn step(&self, tensors: &mut TrainingTensors, grads: &mut Flat, step: &Step) -> Result<()> {
        if tensors.device() == Device::Cpu {
            return self.step_in_one_pass(tensors, grads, step);
        }
        self.step_fused(tensors, grads, step)
    }

    /// By the CPU kernel, which reads and writes each number once.
    fn step_in_one_pass(&self, tensors: &mut TrainingTensors, grads: &Flat, step: &Step) -> Result<()> {
        let adamw = kernel::AdamW {
            learning_rate: step.rate,
            betas: ADAM_BETAS,
            eps: ADAM_EPS,
            weight_decay: self.weight_decay,
            step: step.number.unsigned_abs(),
        };
        for (k, gradient) in grads.views().iter().enumerate() {
            let state = InPlace {
                weights: &tensors.weights[k],
                first: &tensors.first.views()[k],
                second: &tensors.second.views()[k],
                ema: (step.decay, &tensors.shadow[k]),
            };
            adamw_in_place(&adamw, step.factor as f32, gradient, &state)?;
        }
        Ok(())
    }

    fn step_fused(&self, tensors: &mut TrainingTensors, grads: &mut Flat, step: &Step) -> Result<()> {
        let number = |value: f64| Tensor::f_full([] as [i64; 0], value, (Kind::Float, tensors.device()));
        let (rate, updates) = (number(step.rate)?, number(step.number as f64)?);
        let _ = grads.parameters()?.f_mul_scalar_(step.factor)?;
        self.step_on_device(
            tensors,
            grads,
            &OnDevice { rate: &rate, updates: &updates, divisor: None, left_out: None },
        )?;
        tensors.average(step.decay)
    }

    /// The step by torch's fused operation; its numbers may be ones that the device has yet to compute.
    pub fn step_on_device(&self, tensors: &mut TrainingTensors, grads: &mut Flat, numbers: &OnDevice) -> Result<()> {
        let moving = Moving {
            weights: &tensors.weights,
            gradients: grads.views(),
            first: tensors.first.views(),
            second: tensors.second.views(),
        };
        adamw(&moving, numbers, [ADAM_BETAS.0, ADAM_BETAS.1, self.weight_decay, ADAM_EPS])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(value: f64) -> Tensor {
        Tensor::full([2], value, (Kind::Float, Device::Cpu))
    }

    /// Two equal weights.
    fn tensors(weight: f64) -> TrainingTensors {
        TrainingTensors::new(vec![full(weight)], vec![full(weight)], full(0.0), full(0.0)).expect("tensors")
    }

    /// By hand, in f64, for one weight.
    #[test]
    fn steps_follow_the_papers_formula() {
        follow_by_hand(AdamW::step);
        follow_by_hand(AdamW::step_fused);
    }

    fn follow_by_hand(step: impl Fn(&AdamW, &mut TrainingTensors, &mut Flat, &Step) -> Result<()>) {
        let (rate, decay, wd) = (0.1, 0.9, 0.01);
        let mut tensors = tensors(1.0);
        let mut grads = Flat::zeros(&[vec![2]], 1, Device::Cpu).expect("a buffer");
        let (mut w, mut m, mut v, mut average) = (1.0f64, 0.0, 0.0, 1.0);
        for (k, g) in [0.5f64, -0.25, 2.0].into_iter().enumerate() {
            let _ = grads.views_mut()[0].fill_(2.0 * g);
            let asked = Step { number: k as i64 + 1, factor: 0.5, rate, decay };
            step(&AdamW::new(wd), &mut tensors, &mut grads, &asked).expect("a step");
            m = 0.9 * m + 0.1 * g;
            v = 0.999 * v + 0.001 * g * g;
            let (mh, vh) = (m / (1.0 - 0.9f64.powi(k as i32 + 1)), v / (1.0 - 0.999f64.powi(k as i32 + 1)));
            w = w * (1.0 - rate * wd) - rate * mh / (vh.sqrt() + 1e-8);
            average = decay * average + (1.0 - decay) * w;
            assert!((tensors.weights[0].double_value(&[1]) - w).abs() < 1e-6);
            assert!((tensors.shadow[0].double_value(&[1]) - average).abs() < 1e-6);
        }
    }

    #[test]
    fn weights_with_gaps_between_them_are_refused() {
        let gaps = Tensor::zeros([4], (Kind::Float, Device::Cpu)).slice(0, 0, 4, 2);
        let refused = TrainingTensors::new(vec![gaps], vec![full(0.0)], full(0.0), full(0.0));
        assert!(refused.is_err_and(|error| error.to_string().contains("row by row")));
    }

    #[test]
    fn clipping_only_shortens() {
        assert_eq!(clip_factor(0.5, 1.0), 1.0);
        assert!((clip_factor(4.0, 1.0) - 0.25).abs() < 1e-6);
        assert_eq!(clip_factor(4.0, f64::INFINITY), 1.0);
    }
}
