//! The loops of the course's chapter, number by number.

use tch::Tensor;

use super::problem::Problem;
use crate::diffusion::process::Denoised;
use crate::diffusion::Noise;
use crate::error::Result;
use crate::sampler::{At, Correction, Means};

/// x <- clamp(DDIM step - scale dL/dx_t), L the mean over the whole batch of (K x0_hat - y)^2 / (2 sigma^2).
pub struct Dps {
    problem: Problem,
    scale: f64,
    clip: bool,
    step: Option<Tensor>,
}

impl Dps {
    pub fn new(problem: Problem, scale: f64, clip: bool) -> Self {
        Self { problem, scale, clip, step: None }
    }
}

impl Correction for Dps {
    fn differentiates(&self, at: &At) -> bool {
        at.to.spread > 0.0
    }

    fn denoised(&mut self, at: &At, _: &Tensor, said: Denoised, means: &mut Means) -> Result<Denoised> {
        if self.differentiates(at) {
            let pull = self.problem.pull(&said.x0_hat)?.f_div(&self.problem.noise_square()?)?;
            let descent = pull.f_div_scalar(self.problem.y.numel() as f64)?;
            self.step = Some(means.x0_vjp(&descent)?.f_mul_scalar(self.scale)?);
        }
        Ok(said)
    }

    fn after(&mut self, _: &At, x_next: Tensor, _: &mut dyn Noise) -> Result<Tensor> {
        match self.step.take() {
            Some(step) => clamped(x_next.f_add(&step)?, self.clip),
            None => Ok(x_next),
        }
    }
}

/// x <- clamp(x - tau K' (K x - y)) after each DDIM step.
pub struct Diffpir {
    pub problem: Problem,
    pub tau: f64,
    pub clip: bool,
}

impl Correction for Diffpir {
    fn after(&mut self, _: &At, x_next: Tensor, _: &mut dyn Noise) -> Result<Tensor> {
        let pull = self.problem.pull(&x_next)?.f_mul_scalar(self.tau)?;
        clamped(x_next.f_add(&pull)?, self.clip)
    }
}

fn clamped(x: Tensor, clip: bool) -> Result<Tensor> {
    Ok(if clip { x.f_clamp(-1.0, 1.0)? } else { x })
}
