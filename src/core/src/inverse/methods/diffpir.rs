//! Plug-and-play restoration (DiffPIR, Zhu et al. 2023): x0_hat gives way to the proximal point of the measurement.

use tch::Tensor;

use super::problem::Problem;
use crate::diffusion::process::{Denoised, Mixing};
use crate::error::Result;
use crate::inverse::solve::prox;
use crate::sampler::{At, Correction, Means};

pub struct Diffpir {
    pub problem: Problem,
    pub lambda: f64,
}

impl Correction for Diffpir {
    fn denoised(&mut self, at: &At, x_t: &Tensor, said: Denoised, _: &mut Means) -> Result<Denoised> {
        let ratio = (at.level.signal / at.level.spread).powi(2);
        let gamma = self.problem.sigma.f_square()?.f_mul_scalar(self.lambda * ratio)?.f_reciprocal()?;
        let Problem { operator, y, .. } = &self.problem;
        let x0_hat = prox(operator.as_ref(), &said.x0_hat, y, &gamma, self.problem.iterations()?)?;
        Ok(Denoised { eps_hat: Mixing::of(at.level)?.eps(x_t, &x0_hat)?, x0_hat })
    }
}
