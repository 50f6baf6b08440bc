//! Decoupled annealing (Zhang et al. 2024), with x0 drawn exactly from its posterior given x_t and y instead of by Langevin
//! steps: no step size, and no backward pass where the covariance of x0 given x_t is known beforehand.

use tch::Tensor;

use super::mmps::{covariance, whitened, Product};
use super::spread::{at_step, Spread};
use super::Problem;
use crate::diffusion::process::Denoised;
use crate::diffusion::Noise;
use crate::error::Result;
use crate::inverse::solve::cg::Limits;
use crate::inverse::solve::lanczos::root;
use crate::inverse::solve::{draw, Gaussian};
use crate::sampler::{At, Correction, Means};

/// x0 ~ N(x0_hat, C) given y, with C known beforehand.
pub struct Daps {
    pub problem: Problem,
    pub spread: Spread,
}

impl Correction for Daps {
    fn denoised(&mut self, at: &At, _: &Tensor, said: Denoised, means: &mut Means) -> Result<Denoised> {
        let x0_hat = match &self.spread {
            Spread::Even(r2) => evenly_spread(&self.problem, *at_step(r2, at)?, &said.x0_hat, means.noise)?,
            Spread::Modes(planes) => {
                let modes = at_step(planes, at)?;
                let eps = means.noise.normal(&said.x0_hat.size(), said.x0_hat.device())?;
                let z = said.x0_hat.f_add(&modes.root_times(&eps)?)?;
                let e = means.noise.normal(&self.problem.y.size(), self.problem.y.device())?;
                pulled(&self.problem, z, &e, &mut |v| modes.times(v), modes.limits(&self.problem))?
            }
        };
        Ok(Denoised { x0_hat, ..said })
    }
}

/// x0 ~ N(x0_hat, r2 I) given y: in closed form for operators that have one.
fn evenly_spread(problem: &Problem, r2: f64, x0_hat: &Tensor, noise: &mut dyn Noise) -> Result<Tensor> {
    let Problem { operator, y, sigma, .. } = problem;
    let r = sigma.f_zeros_like()?.f_add_scalar(r2.sqrt())?;
    draw(operator.as_ref(), &Gaussian { z: x0_hat, y, sigma, r: &r }, noise, problem.limits())
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

    fn denoised(&mut self, at: &At, _: &Tensor, said: Denoised, means: &mut Means) -> Result<Denoised> {
        let eps = means.noise.normal(&said.x0_hat.size(), said.x0_hat.device())?;
        let z = said.x0_hat.f_add(&root(&mut |v| covariance(at, v, means), &eps, self.steps, self.problem.watch)?)?;
        let e = means.noise.normal(&self.problem.y.size(), self.problem.y.device())?;
        let x0_hat = pulled(&self.problem, z, &e, &mut |v| covariance(at, v, means), self.problem.limits())?;
        Ok(Denoised { x0_hat, ..said })
    }
}

/// A draw z from N(x0_hat, C), pulled to a perturbed y, which makes it one given y:
/// z + C K' (K C K' + sigma^2)^-1 (y + sigma e - K z).
fn pulled(problem: &Problem, z: Tensor, e: &Tensor, c: &mut Product, limits: Limits) -> Result<Tensor> {
    let misfit = problem.misfit(&z)?.f_add(&e.f_mul(&problem.noise_square()?.f_sqrt()?)?)?;
    let weighted = whitened(problem, &misfit, c, limits)?;
    Ok(z.f_add(&c(&problem.operator.adjoint(&weighted)?)?)?)
}
