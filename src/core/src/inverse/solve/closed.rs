//! What restoration asks of an operator beside K and K': proximal points, pseudo-inverses, Gaussian draws, its norm. In
//! closed form where its spectrum is known, by conjugate gradients elsewhere.

use tch::{Device, Kind, Tensor};

use super::cg::{self, Limits};
use super::circulant::Circulant;
use super::least::Least;
use super::spectrum::{precise, Spectrum};
use crate::diffusion::Noise;
use crate::error::{ensure, Result};
use crate::inverse::operator::{normal, waves, LinearOperator, Shape};

/// How systems without a closed form are solved.
#[derive(Clone, Copy)]
pub struct Iterations<'a> {
    pub limits: Limits,
    /// The circulant matrix next to K'K, where solving near it saves more time than it takes.
    pub near: Option<&'a Circulant>,
    /// By how many of its own standard deviations a draw may be off, in all directions together; 0: as far as the limits say.
    pub deviations: f64,
}

impl Iterations<'_> {
    /// Next to (I + gamma K'K)^-1 r, given that of what is near.
    fn solved(&self, r: &Tensor, factors: Option<&Tensor>) -> Result<Tensor> {
        match self.near.zip(factors) {
            Some((near, factors)) => near.filter(r, &|s| Ok(factors.f_to_kind(s.kind())?)),
            None => Ok(r.shallow_clone()),
        }
    }
}

impl From<Limits> for Iterations<'_> {
    fn from(limits: Limits) -> Self {
        Self { limits, near: None, deviations: 0.0 }
    }
}

/// argmin_x 1/2 |K x - y|^2 + 1/(2 gamma) |x - z|^2.
///
/// `gamma` is one number, or one for each image: (N, 1, 1, 1), float64.
pub fn prox(operator: &dyn LinearOperator, z: &Tensor, y: &Tensor, gamma: &Tensor, by: Iterations) -> Result<Tensor> {
    Ok(z.f_add(&way(operator, z, y, gamma, by)?)?)
}

/// From z to there: gamma (I + gamma K'K)^-1 K' (y - K z).
pub fn way(operator: &dyn LinearOperator, z: &Tensor, y: &Tensor, gamma: &Tensor, by: Iterations) -> Result<Tensor> {
    let Some(spectrum) = operator.spectrum() else {
        let factors = by.near.map(|near| inverse_of_near(near, gamma)).transpose()?;
        let gamma = gamma.f_to_kind(z.kind())?;
        let mut system = |x: &Tensor| Ok(normal(operator, x)?.f_mul(&gamma)?.f_add(x)?);
        let mut inverse = |r: &Tensor| by.solved(r, factors.as_ref());
        let pull = operator.adjoint(&y.f_sub(&operator.apply(z)?)?)?.f_mul(&gamma)?;
        return cg::solve_near(&mut system, &mut inverse, &pull, by.limits);
    };
    // gamma times the rounding of float32 would show where K'K is 0
    let kind = precise(z);
    let misfit = y.f_to_kind(kind)?.f_sub(&operator.apply(&z.f_to_kind(kind)?)?)?;
    let share = |s: &Tensor| Ok(gamma.f_div(&s.f_mul(&gamma.f_to_kind(s.kind())?)?.f_add_scalar(1.0)?)?);
    Ok(spectrum.filter(&operator.adjoint(&misfit)?, &share)?.f_to_kind(z.kind())?)
}

/// (I + gamma `near`)^-1 for each mode, on the CPU: (N, 1, H, W / 2 + 1).
///
/// What K hardly sees, `near` is too far off to tell; taken for nothing, it would slow iterations down instead.
fn inverse_of_near(near: &Circulant, gamma: &Tensor) -> Result<Tensor> {
    const LEAST: f64 = 0.3;
    let modes = near.values();
    let modes = modes.f_maximum(&modes.f_mean(Kind::Double)?.f_mul_scalar(LEAST)?)?;
    Ok(gamma.f_to_device(Device::Cpu)?.f_mul(&modes)?.f_add_scalar(1.0)?.f_reciprocal()?)
}

/// K^+ y. Singular values up to `cutoff` times the largest count as zero where the spectrum is known; elsewhere they are
/// damped: (K'K + (cutoff |K|)^2 I)^-1 K' y.
pub fn pinv(operator: &dyn LinearOperator, y: &Tensor, cutoff: f64, limits: Limits) -> Result<Tensor> {
    let back = operator.adjoint(y)?;
    if let Some(spectrum) = operator.spectrum() {
        let least = cutoff * cutoff * spectrum.largest()?;
        return spectrum.filter(&back, &|s| inverse(s, least));
    }
    let damping = (cutoff * norm(operator, y.device())?).powi(2);
    let mut system = |x: &Tensor| Ok(normal(operator, x)?.f_add(&x.f_mul_scalar(damping)?)?);
    cg::solve(&mut system, &back, limits)
}

/// 1/s where s > least, 0 elsewhere.
pub fn inverse(s: &Tensor, least: f64) -> Result<Tensor> {
    let counts = s.f_gt(least)?;
    Ok(s.f_reciprocal()?.f_where_scalarother(&counts, 0.0)?)
}

/// The Gaussian that a draw is made from: density in proportion to exp(-|K x - y|^2 / (2 sigma^2) - |x - z|^2 / (2 r^2)).
/// Both numbers as `gamma` of [`prox`].
pub struct Gaussian<'a> {
    pub z: &'a Tensor,
    pub y: &'a Tensor,
    pub sigma: &'a Tensor,
    pub r: &'a Tensor,
}

/// One draw per image. With a known spectrum one draw of noise; elsewhere the least squares of perturbed z and y (Papandreou
/// and Yuille 2010), which need two.
pub fn draw(operator: &dyn LinearOperator, of: &Gaussian, noise: &mut dyn Noise, by: Iterations) -> Result<Tensor> {
    let Gaussian { z, y, sigma, r } = *of;
    let odds = r.f_div(sigma)?.f_square()?;
    let mut normal = |like: &Tensor| Result::Ok(noise.normal(&like.size(), like.device())?.f_to_kind(like.kind())?);
    if let Some(spectrum) = operator.spectrum() {
        let mean = prox(operator, z, y, &odds, by)?;
        let spread = |s: &Tensor| {
            let shrinks = s.f_mul(&odds.f_to_kind(s.kind())?)?.f_add_scalar(1.0)?.f_sqrt()?;
            Ok(r.f_to_kind(s.kind())?.f_div(&shrinks)?)
        };
        return Ok(mean.f_add(&spectrum.filter(&normal(z)?, &spread)?)?);
    }
    let z = z.f_add(&normal(z)?.f_mul(&r.f_to_kind(z.kind())?)?)?;
    let y = y.f_add(&normal(y)?.f_mul(&sigma.f_to_kind(y.kind())?)?)?;
    let factors = by.near.map(|near| inverse_of_near(near, &odds)).transpose()?;
    let stiffness = odds.f_to_kind(z.kind())?.f_reciprocal()?;
    let least =
        Least { seen: &|x| operator.apply(x), back: &|r| operator.adjoint(r), stiff: &|x| Ok(x.f_mul(&stiffness)?) };
    let misfit = y.f_sub(&operator.apply(&z)?)?;
    let mut inverse = |v: &Tensor| by.solved(v, factors.as_ref());
    let way = least.solve(&mut inverse, &misfit, sigma, by.deviations, by.limits)?;
    Ok(z.f_add(&way)?)
}

const LANCZOS_STEPS: usize = 60;

/// The largest singular value: exactly from the spectrum, by Lanczos steps on K'K elsewhere.
pub fn norm(operator: &dyn LinearOperator, device: Device) -> Result<f64> {
    if let Some(spectrum) = operator.spectrum() {
        return Ok(spectrum.largest()?.sqrt());
    }
    let Shape { channels, height, width } = operator.img_shape();
    let mut v = waves(&[1, channels.unwrap_or(1), height, width], 0.5, (operator.precision(), device))?;
    v = v.f_div(&v.f_norm()?)?;
    let (mut before, mut link) = (v.f_zeros_like()?, 0.0);
    let (mut diagonal, mut beside) = (vec![], vec![]);
    for _ in 0..LANCZOS_STEPS.min(v.numel()) {
        let next = normal(operator, &v)?.f_sub(&before.f_mul_scalar(link)?)?;
        let here = cg::inner(&next, &v)?[0];
        let next = next.f_sub(&v.f_mul_scalar(here)?)?;
        link = cg::inner(&next, &next)?[0].sqrt();
        diagonal.push(here);
        beside.push(link);
        if link <= 1e-12 * here.abs() {
            break;
        }
        (before, v) = (v, next.f_div_scalar(link)?);
    }
    largest_of_tridiagonal(&diagonal, &beside[..diagonal.len() - 1]).map(|square| square.max(0.0).sqrt())
}

fn largest_of_tridiagonal(diagonal: &[f64], beside: &[f64]) -> Result<f64> {
    ensure!(diagonal.iter().all(|value| value.is_finite()), Value, "the operator gives values that are not finite");
    let middle = Tensor::f_from_slice(diagonal)?.f_diag(0)?;
    let lower = if beside.is_empty() { None } else { Some(Tensor::f_from_slice(beside)?.f_diag(-1)?) };
    let matrix = match lower {
        Some(lower) => middle.f_add(&lower)?.f_add(&lower.f_transpose(0, 1)?)?,
        None => middle,
    };
    Ok(matrix.f_linalg_eigvalsh("L")?.f_to_kind(Kind::Double)?.f_max()?.f_double_value(&[])?)
}
