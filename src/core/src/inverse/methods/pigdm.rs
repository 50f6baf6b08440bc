//! Pseudoinverse-guided diffusion (Song et al. 2023): the guidance that is exact if x0 given x_t is N(x0_hat, C), with a C that
//! is known beforehand.

use tch::Tensor;

use super::problem::{guided, Problem};
use super::spread::{at_step, Spread};
use crate::diffusion::process::Denoised;
use crate::error::Result;
use crate::inverse::solve::way;
use crate::sampler::{At, Correction, Means};

pub struct Pigdm {
    pub problem: Problem,
    pub spread: Spread,
}

impl Correction for Pigdm {
    fn differentiates(&self, _: &At) -> bool {
        true
    }

    /// q = J' K' (K C K' + sigma^2)^-1 (y - K x0_hat).
    fn denoised(&mut self, at: &At, _: &Tensor, said: Denoised, means: &mut Means) -> Result<Denoised> {
        let Problem { operator, y, sigma, .. } = &self.problem;
        let back = match &self.spread {
            Spread::Even(r2) => {
                let r2 = *at_step(r2, at)?;
                let odds = sigma.f_square()?.f_reciprocal()?.f_mul_scalar(r2)?;
                way(operator.as_ref(), &said.x0_hat, y, &odds, self.problem.iterations()?)?.f_div_scalar(r2)?
            }
            Spread::Modes(planes) => {
                let known = at_step(planes, at)?.about(&said.x0_hat)?;
                let misfit = self.problem.misfit(&said.x0_hat)?;
                // K' w is C^-1 x; from the misfit that x leaves it would come with the solver's error over sigma^2
                known.over(&known.towards(&misfit, &self.problem, 0.0)?)?
            }
        };
        let q = means.x0_vjp(&back)?;
        guided(at, said, &q)
    }
}
