//! Decoupled annealing (Zhang et al. 2024), with x0 drawn exactly from its posterior given x_t and y instead of by Langevin
//! steps: no step size, and no backward pass where the covariance of x0 given x_t is known beforehand.

use tch::Tensor;

use super::mmps::{covariance, whitened};
use super::problem::{Problem, ACCURACY};
use super::spread::{at_step, widening, Spread};
use crate::diffusion::process::Denoised;
use crate::diffusion::Noise;
use crate::error::Result;
use crate::inverse::solve::lanczos::root;
use crate::inverse::solve::{draw, Gaussian};
use crate::sampler::{At, Correction, Means};

/// x0 ~ N(x0_hat, C) given y, with C known beforehand.
pub struct Daps {
    pub problem: Problem,
    pub spread: Spread,
    /// Whether C is widened where y - K x0_hat is larger than it explains.
    pub widen: bool,
}

impl Correction for Daps {
    fn denoised(&mut self, at: &At, _: &Tensor, said: Denoised, means: &mut Means) -> Result<Denoised> {
        let x0_hat = match &self.spread {
            Spread::Even(r2) => {
                let r2 = Tensor::f_from_slice(&[*at_step(r2, at)?])?;
                let r2 = if self.widen { r2.f_mul(&widening(&self.problem, &r2, &said.x0_hat)?)? } else { r2 };
                evenly_spread(&self.problem, &r2, &said.x0_hat, means.noise)?
            }
            Spread::Modes(planes) => {
                let mut known = at_step(planes, at)?.about(&said.x0_hat)?;
                if self.widen {
                    known = known.widened(&self.problem, &said.x0_hat)?;
                }
                let mut root = |eps: &Tensor, _: &mut Means| known.root_times(eps);
                let Perturbed { z, misfit } = perturbed(&self.problem, &said.x0_hat, &mut root, means)?;
                z.f_add(&known.towards(&misfit, &self.problem, ACCURACY)?)?
            }
        };
        Ok(Denoised { x0_hat, ..said })
    }
}

/// x0 ~ N(x0_hat, r2 I) given y: in closed form for operators that have one. `r2`: one number, (1,), or one for each image,
/// (N, 1, 1, 1), on the CPU.
fn evenly_spread(problem: &Problem, r2: &Tensor, x0_hat: &Tensor, noise: &mut dyn Noise) -> Result<Tensor> {
    let Problem { operator, y, sigma, .. } = problem;
    let r = sigma.f_zeros_like()?.f_add(&r2.f_sqrt()?.f_to_kind(sigma.kind())?.f_to_device(sigma.device())?)?;
    draw(operator.as_ref(), &Gaussian { z: x0_hat, y, sigma, r: &r }, noise, problem.iterations()?)
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

    /// z + C K' (K C K' + sigma^2)^-1 (y + sigma e - K z).
    fn denoised(&mut self, at: &At, _: &Tensor, said: Denoised, means: &mut Means) -> Result<Denoised> {
        let problem = &self.problem;
        let mut root =
            |eps: &Tensor, means: &mut Means| root(&mut |v| covariance(at, v, means), eps, self.steps, problem.watch);
        let Perturbed { z, misfit } = perturbed(problem, &said.x0_hat, &mut root, means)?;
        let weighted = whitened(problem, &misfit, &mut |v| covariance(at, v, means), problem.limits())?;
        let x0_hat = z.f_add(&covariance(at, &problem.operator.adjoint(&weighted)?, means)?)?;
        Ok(Denoised { x0_hat, ..said })
    }
}

/// A draw z from N(x0_hat, C), and how far it is from a perturbed y: moved towards that, it is a draw given y (Papandreou and
/// Yuille 2010).
struct Perturbed {
    z: Tensor,
    /// y + sigma e - K z.
    misfit: Tensor,
}

/// `root` multiplies with C^(1/2).
fn perturbed(
    problem: &Problem,
    x0_hat: &Tensor,
    root: &mut dyn FnMut(&Tensor, &mut Means) -> Result<Tensor>,
    means: &mut Means,
) -> Result<Perturbed> {
    let eps = means.noise.normal(&x0_hat.size(), x0_hat.device())?;
    let z = x0_hat.f_add(&root(&eps, means)?)?;
    let e = means.noise.normal(&problem.y.size(), problem.y.device())?;
    let misfit = problem.misfit(&z)?.f_add(&e.f_mul(&problem.noise_square()?.f_sqrt()?)?)?;
    Ok(Perturbed { z, misfit })
}
