//! Decoupled annealing (Zhang et al. 2024), with x0 drawn exactly from its posterior given x_t and y instead of by Langevin
//! steps: no step size, and no backward pass where the covariance of x0 given x_t is r2 I.

use tch::Tensor;

use super::mmps::{covariance, whitened};
use super::{at_step, Problem};
use crate::diffusion::process::Denoised;
use crate::error::Result;
use crate::inverse::solve::lanczos::root;
use crate::inverse::solve::{draw, Gaussian};
use crate::sampler::{At, Correction, Means};

/// x0 ~ N(x0_hat, r2 I) given y.
pub struct Daps {
    pub problem: Problem,
    pub r2: Vec<f64>,
}

impl Correction for Daps {
    fn denoised(&mut self, at: &At, _: &Tensor, said: Denoised, means: &mut Means) -> Result<Denoised> {
        let Problem { operator, y, sigma, .. } = &self.problem;
        let r = sigma.f_zeros_like()?.f_add_scalar(at_step(&self.r2, at)?.sqrt())?;
        let of = Gaussian { z: &said.x0_hat, y, sigma, r: &r };
        Ok(Denoised { x0_hat: draw(operator.as_ref(), &of, means.noise, self.problem.limits())?, ..said })
    }
}

/// x0 ~ N(x0_hat, C) given y, with the network's own covariance C: exact for every Gaussian prior.
pub struct DapsJacobian {
    pub problem: Problem,
    /// Products with C for its square root, at most.
    pub steps: usize,
}

impl Correction for DapsJacobian {
    fn differentiates(&self, _: &At) -> bool {
        true
    }

    /// A draw from the prior N(x0_hat, C), pulled to a perturbed y: z + C K' (K C K' + sigma^2)^-1 (y + sigma e - K z).
    fn denoised(&mut self, at: &At, _: &Tensor, said: Denoised, means: &mut Means) -> Result<Denoised> {
        let eps = means.noise.normal(&said.x0_hat.size(), said.x0_hat.device())?;
        let z = said.x0_hat.f_add(&root(&mut |v| covariance(at, v, means), &eps, self.steps, self.problem.watch)?)?;
        let e = means.noise.normal(&self.problem.y.size(), self.problem.y.device())?;
        let misfit = self.problem.misfit(&z)?.f_add(&e.f_mul(&self.problem.noise_square()?.f_sqrt()?)?)?;
        let weighted = whitened(&self.problem, at, &misfit, means, self.problem.limits())?;
        let pull = covariance(at, &self.problem.operator.adjoint(&weighted)?, means)?;
        Ok(Denoised { x0_hat: z.f_add(&pull)?, ..said })
    }
}
