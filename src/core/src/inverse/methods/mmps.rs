//! Moment matching posterior sampling (Rozet et al. 2024): the covariance of x0 given x_t is the network's own, known by its
//! Jacobian's products.

use tch::Tensor;

use super::problem::{guided, Problem};
use crate::diffusion::process::Denoised;
use crate::error::Result;
use crate::inverse::solve::cg::{self, Limits, Matrix};
use crate::sampler::{At, Correction, Means};

pub struct Mmps {
    pub problem: Problem,
    pub cg_steps: usize,
}

impl Correction for Mmps {
    fn differentiates(&self, _: &At) -> bool {
        true
    }

    /// q = J' K' (K C K' + sigma^2)^-1 (y - K x0_hat), with C of [`covariance`].
    fn denoised(&mut self, at: &At, _: &Tensor, said: Denoised, means: &mut Means) -> Result<Denoised> {
        let misfit = self.problem.misfit(&said.x0_hat)?;
        let limits = Limits { iterations: self.cg_steps, ..self.problem.limits() };
        let weighted = whitened(&self.problem, &misfit, &mut |v| covariance(at, v, means), limits)?;
        let q = means.x0_vjp(&self.problem.operator.adjoint(&weighted)?)?;
        guided(at, said, &q)
    }
}

/// Cov[x0 | x_t] v = (1 - ab) / sqrt(ab) (d x0_hat / d x_t)' v. What was clamped does not vary: neither as a column, which is
/// the derivative's own zero, nor as a row, without which the matrix would not be symmetric and could not be solved with.
pub(super) fn covariance(at: &At, v: &Tensor, means: &mut Means) -> Result<Tensor> {
    let factor = at.level.spread * at.level.spread / at.level.signal;
    let product = means.x0_vjp(v)?.f_mul_scalar(factor)?;
    match means.free() {
        Some(free) => Ok(product.f_mul(&free)?),
        None => Ok(product),
    }
}

/// (K C K' + sigma^2)^-1 r, for C by its products.
pub(super) fn whitened(problem: &Problem, r: &Tensor, c: &mut Matrix, limits: Limits) -> Result<Tensor> {
    let (operator, noise) = (problem.operator.as_ref(), problem.noise_square()?);
    let mut system = |w: &Tensor| Ok(operator.apply(&c(&operator.adjoint(w)?)?)?.f_add(&w.f_mul(&noise)?)?);
    cg::solve(&mut system, r, limits)
}
