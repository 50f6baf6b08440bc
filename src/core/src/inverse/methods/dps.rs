//! Diffusion posterior sampling (Chung et al. 2023).

use tch::Tensor;

use super::problem::{guided, Problem};
use crate::choice::Choice;
use crate::diffusion::process::Denoised;
use crate::diffusion::Noise;
use crate::error::Result;
use crate::inverse::solve::cg::{inner, numbers};
use crate::sampler::{At, Correction, Means};

/// What guidance with a scale descends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Norm {
    /// |y - K x0_hat|, of each image.
    #[default]
    L2,
    /// Its square.
    Squared,
}

impl Choice for Norm {
    const WHAT: &'static str = "norm";
    const ALL: &'static [(&'static str, Self)] = &[("l2", Self::L2), ("squared", Self::Squared)];
}

pub struct Dps {
    problem: Problem,
    /// None: the weight that follows from sigma, as if x0 were known to be x0_hat.
    scale: Option<f64>,
    norm: Norm,
    guide_below: f64,
    /// What is still to be added at the end of the step.
    step: Option<Tensor>,
}

impl Dps {
    pub fn new(problem: Problem, scale: Option<f64>, norm: Norm, guide_below: f64) -> Self {
        Self { problem, scale, norm, guide_below, step: None }
    }

    /// Minus the gradient of the norm by x0_hat.
    fn descent(&self, x0_hat: &Tensor) -> Result<Tensor> {
        let misfit = self.problem.misfit(x0_hat)?;
        let pull = self.problem.operator.adjoint(&misfit)?;
        match self.norm {
            Norm::Squared => Ok(pull.f_mul_scalar(2.0)?),
            Norm::L2 => {
                let squares = inner(&misfit, &misfit)?;
                let inverse: Vec<f64> = squares.iter().map(|s| if *s > 0.0 { 1.0 / s.sqrt() } else { 0.0 }).collect();
                Ok(pull.f_mul(&numbers(&inverse, x0_hat)?)?)
            }
        }
    }
}

impl Correction for Dps {
    fn differentiates(&self, at: &At) -> bool {
        at.level.spread <= self.guide_below * at.level.signal
    }

    fn denoised(&mut self, at: &At, _: &Tensor, said: Denoised, means: &mut Means) -> Result<Denoised> {
        if !self.differentiates(at) {
            return Ok(said);
        }
        match self.scale {
            None => {
                let pull = self.problem.pull(&said.x0_hat)?.f_div(&self.problem.noise_square()?)?;
                let q = means.x0_vjp(&pull)?;
                guided(at, said, &q)
            }
            Some(scale) => {
                let descent = self.descent(&said.x0_hat)?;
                self.step = Some(means.x0_vjp(&descent)?.f_mul_scalar(scale)?);
                Ok(said)
            }
        }
    }

    fn after(&mut self, _: &At, x_next: Tensor, _: &mut dyn Noise) -> Result<Tensor> {
        match self.step.take() {
            Some(step) => Ok(x_next.f_add(&step)?),
            None => Ok(x_next),
        }
    }
}
