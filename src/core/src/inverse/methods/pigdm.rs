//! Pseudoinverse-guided diffusion (Song et al. 2023): the guidance that is exact if x0 given x_t is N(x0_hat, r2 I).

use tch::Tensor;

use super::{at_step, guided, Problem};
use crate::diffusion::process::Denoised;
use crate::error::Result;
use crate::inverse::solve::way;
use crate::sampler::{At, Correction, Means};

pub struct Pigdm {
    pub problem: Problem,
    pub r2: Vec<f64>,
}

impl Correction for Pigdm {
    fn differentiates(&self, _: &At) -> bool {
        true
    }

    /// q = J' K' (r2 K K' + sigma^2)^-1 (y - K x0_hat).
    fn denoised(&mut self, at: &At, _: &Tensor, said: Denoised, means: &mut Means) -> Result<Denoised> {
        let r2 = at_step(&self.r2, at)?;
        let odds = self.problem.sigma.f_square()?.f_reciprocal()?.f_mul_scalar(r2)?;
        let way = way(self.problem.operator.as_ref(), &said.x0_hat, &self.problem.y, &odds, self.problem.limits())?;
        let q = means.x0_vjp(&way.f_div_scalar(r2)?)?;
        guided(at, said, &q)
    }
}
