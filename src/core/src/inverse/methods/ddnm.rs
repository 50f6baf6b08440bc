//! The null-space model (DDNM and DDNM+, Wang, Yu and Zhang 2023), DDNM+ along the singular directions of the operator.

use tch::Tensor;

use super::problem::Problem;
use crate::diffusion::process::Denoised;
use crate::diffusion::schedule::Level;
use crate::diffusion::Noise;
use crate::error::Result;
use crate::inverse::operators::matrix::Basis;
use crate::inverse::solve::pinv;
use crate::inverse::solve::spectrum::Spectrum;
use crate::sampler::{At, Correction, Means};

/// Singular values up to this share of the largest belong to the null space.
const CUTOFF: f64 = 1e-3;

pub struct Ddnm {
    problem: Problem,
    eta: f64,
    noisy: bool,
    /// The operator's singular directions, where it does not know them itself.
    computed: Option<Basis>,
    /// The square of the least singular value that counts.
    least: f64,
}

impl Ddnm {
    pub fn new(problem: Problem, eta: f64) -> Result<Self> {
        let noisy = problem.sigma.f_max()?.f_double_value(&[])? > 0.0;
        let unknown = noisy && problem.operator.spectrum().is_none();
        let computed = if unknown { Some(Basis::of_operator(problem.operator.as_ref())?) } else { None };
        let mut made = Self { problem, eta, noisy, computed, least: 0.0 };
        made.least = match made.spectrum() {
            Some(spectrum) => CUTOFF * CUTOFF * spectrum.largest()?,
            None => 0.0,
        };
        Ok(made)
    }

    fn spectrum(&self) -> Option<&dyn Spectrum> {
        match &self.computed {
            Some(basis) => Some(basis),
            None => self.problem.operator.spectrum(),
        }
    }

    /// From x0_hat towards y along each direction with singular value a, by the share lam = min(1, sqrt(1-b) a / (sqrt(b) sigma)).
    fn towards_y(&self, spectrum: &dyn Spectrum, x0_hat: &Tensor, to: Level) -> Result<Tensor> {
        let sigma = &self.problem.sigma;
        let share = |s: &Tensor| {
            let a = s.f_sqrt()?;
            let lam = a.f_mul_scalar(to.spread / to.signal)?.f_div(&sigma.f_to_kind(s.kind())?)?.f_clamp_max(1.0)?;
            // of K' (y - K x0_hat), which carries a once more
            Ok(lam.f_div(s)?.f_where_scalarother(&s.f_gt(self.least)?, 0.0)?)
        };
        spectrum.filter(&self.problem.pull(x0_hat)?, &share)
    }

    /// eta gam z, with gam^2 = 1 - b - b sigma^2 / a^2 where that is positive, and 1 - b in the null space.
    fn noise(&self, spectrum: &dyn Spectrum, z: &Tensor, to: Level) -> Result<Tensor> {
        let sigma = &self.problem.sigma;
        let spread = |s: &Tensor| {
            let explained = sigma.f_to_kind(s.kind())?.f_mul_scalar(to.signal)?.f_square()?.f_div(s)?;
            let counts = s.f_gt(self.least)?.f_expand(explained.size(), false)?;
            let explained = explained.f_where_scalarother(&counts, 0.0)?;
            let square = explained.f_neg()?.f_add_scalar(to.spread * to.spread)?.f_clamp_min(0.0)?;
            Ok(square.f_sqrt()?.f_mul_scalar(self.eta)?)
        };
        spectrum.filter(z, &spread)
    }
}

impl Correction for Ddnm {
    fn denoised(&mut self, at: &At, _: &Tensor, said: Denoised, _: &mut Means) -> Result<Denoised> {
        let way = match self.spectrum() {
            Some(spectrum) if self.noisy => self.towards_y(spectrum, &said.x0_hat, at.to)?,
            _ => pinv(
                self.problem.operator.as_ref(),
                &self.problem.misfit(&said.x0_hat)?,
                CUTOFF,
                self.problem.limits(),
            )?,
        };
        Ok(Denoised { x0_hat: said.x0_hat.f_add(&way)?, ..said })
    }

    fn after(&mut self, at: &At, x_next: Tensor, noise: &mut dyn Noise) -> Result<Tensor> {
        if at.to.spread == 0.0 || self.eta == 0.0 {
            return Ok(x_next);
        }
        let z = noise.normal(&x_next.size(), x_next.device())?;
        let z = match self.spectrum() {
            Some(spectrum) if self.noisy => self.noise(spectrum, &z, at.to)?,
            _ => z.f_mul_scalar(self.eta * at.to.spread)?,
        };
        Ok(x_next.f_add(&z)?)
    }
}
