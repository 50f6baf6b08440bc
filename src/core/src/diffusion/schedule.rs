//! Noise schedules: betas, and the running products derived from them.

use std::f32::consts::FRAC_PI_2;

use tch::{Device, Kind, Tensor};

use crate::error::{ensure, Result};
use crate::libtorch::is_finite;

/// Schedules longer than this are a mistyped argument, not a wish (the longest in use have some 4,000 steps).
pub const MAX_STEPS: i64 = 1_000_000;
pub const COSINE_OFFSET: f64 = 0.008;
pub const LINEAR_START: f64 = 1e-4;
pub const LINEAR_END: f64 = 0.02;
/// Bounds of the cosine schedule's betas (Nichol and Dhariwal 2021, section 3.2, with the course's lower bound).
const COSINE_BETA_MIN: f64 = 1e-5;
const COSINE_BETA_MAX: f64 = 0.999;

fn check_steps(num_steps: i64) -> Result<()> {
    ensure!(
        (1..=MAX_STEPS).contains(&num_steps),
        Value,
        "num_steps must be between 1 and {MAX_STEPS}, got {num_steps}"
    );
    Ok(())
}

/// Cosine schedule, Nichol and Dhariwal 2021, equation 17: float32 betas of shape (num_steps,).
pub fn cosine_betas(num_steps: i64, s: f64) -> Result<Tensor> {
    check_steps(num_steps)?;
    ensure!(s.is_finite() && s > -1.0 && s != -1.0, Value, "s must be a finite number above -1, got {s}");
    let steps = num_steps as f64;
    let x = Tensor::f_linspace(0.0, steps, num_steps + 1, (Kind::Float, Device::Cpu))?;
    let phase = x.f_div_scalar(steps)?.f_add_scalar(s)?.f_div_scalar(1.0 + s)?.f_mul_scalar(f64::from(FRAC_PI_2))?;
    let f = phase.f_cos()?.f_square()?;
    let alpha_bars = f.f_div(&f.f_get(0)?)?;
    let ratio = alpha_bars.f_narrow(0, 1, num_steps)?.f_div(&alpha_bars.f_narrow(0, 0, num_steps)?)?;
    let betas = ratio.f_neg()?.f_add_scalar(1.0)?.f_clamp(COSINE_BETA_MIN, COSINE_BETA_MAX)?;
    ensure!(is_finite(&betas)?, Value, "s = {s} gives betas that are not finite");
    Ok(betas)
}

/// Linear schedule, Ho et al. 2020, section 4: float32 betas of shape (num_steps,).
pub fn linear_betas(num_steps: i64, beta_start: f64, beta_end: f64) -> Result<Tensor> {
    check_steps(num_steps)?;
    for (name, beta) in [("beta_start", beta_start), ("beta_end", beta_end)] {
        // as float32, which is what the schedule holds
        let stored = beta as f32;
        ensure!(stored > 0.0 && stored < 1.0, Value, "{name} must be between 0 and 1 (both excluded), got {beta}");
    }
    let grows = beta_start <= beta_end;
    ensure!(
        grows,
        Value,
        "beta_end must be at least beta_start = {beta_start}: noise grows from step to step; got {beta_end}"
    );
    Ok(Tensor::f_linspace(beta_start, beta_end, num_steps, (Kind::Float, Device::Cpu))?)
}

/// How noisy an image is: x = signal x0 + spread eps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Level {
    pub signal: f64,
    pub spread: f64,
}

impl Level {
    pub const CLEAN: Self = Self { signal: 1.0, spread: 0.0 };

    /// That of a timestep. The difference from 1 is taken in float32, as the course takes it.
    pub fn of_alpha_bar(alpha_bar: f32) -> Self {
        Self { signal: f64::from(alpha_bar).sqrt(), spread: f64::from(1.0 - alpha_bar).sqrt() }
    }

    /// The noise beside one part of image, what Karras et al. 2022 call sigma.
    pub fn sigma(self) -> f64 {
        self.spread / self.signal
    }

    /// Half the logarithm of the signal-to-noise ratio, the time of exponential integrators (Lu et al. 2022).
    pub fn lambda(self) -> f64 {
        (self.signal / self.spread).ln()
    }
}

/// A schedule as the samplers and the trainer read it: plain float32 numbers, one per timestep.
#[derive(Debug, Clone)]
pub struct Schedule {
    pub betas: Vec<f32>,
    pub alphas: Vec<f32>,
    pub alpha_bars: Vec<f32>,
}

impl Schedule {
    /// From betas alone; alphas and their running product are derived in float32 as the course does.
    pub fn from_betas(betas: &Tensor) -> Result<Self> {
        let betas = coefficients(betas, "betas")?;
        ensure!(
            betas.iter().all(|b| *b > 0.0 && *b < 1.0),
            Value,
            "betas must lie between 0 and 1 (both excluded), got values from {} to {}",
            betas.iter().copied().fold(f32::INFINITY, f32::min),
            betas.iter().copied().fold(f32::NEG_INFINITY, f32::max)
        );
        let alphas: Vec<f32> = betas.iter().map(|b| 1.0 - b).collect();
        let alpha_bars = Tensor::f_from_slice(&alphas)?.f_cumprod(0, Kind::Float)?;
        Ok(Self { alpha_bars: coefficients(&alpha_bars, "alpha_bars")?, betas, alphas })
    }

    pub fn len(&self) -> usize {
        self.alpha_bars.len()
    }

    pub fn is_empty(&self) -> bool {
        self.alpha_bars.is_empty()
    }
}

/// One float32 number per timestep out of a 1-D tensor, checked: not empty, finite.
pub fn coefficients(values: &Tensor, name: &str) -> Result<Vec<f32>> {
    let size = values.size();
    ensure!(size.len() == 1 && size[0] > 0, Value, "{name} must have shape (T,) with T >= 1, got {size:?}");
    let kind = values.f_kind()?;
    ensure!(
        matches!(kind, Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16),
        Type,
        "{name} must be a floating-point tensor, got {kind:?}"
    );
    let values = values.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?;
    let mut out = vec![0f32; size[0] as usize];
    let count = out.len();
    values.f_copy_data(&mut out, count)?;
    ensure!(out.iter().all(|v| v.is_finite()), Value, "{name} must be finite, got NaN or infinity");
    Ok(out)
}

/// As [`coefficients`], for running products: every value in (0, 1].
pub fn alpha_bar_values(values: &Tensor) -> Result<Vec<f32>> {
    let out = coefficients(values, "alpha_bars")?;
    ensure!(
        out.iter().all(|v| *v > 0.0 && *v <= 1.0),
        Value,
        "alpha_bars must lie in (0, 1], got values from {} to {}",
        out.iter().copied().fold(f32::INFINITY, f32::min),
        out.iter().copied().fold(f32::NEG_INFINITY, f32::max)
    );
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(t: &Tensor) -> Vec<f32> {
        coefficients(t, "betas").expect("a schedule")
    }

    #[test]
    fn cosine_betas_follow_the_closed_form() {
        let betas = values(&cosine_betas(400, COSINE_OFFSET).expect("betas"));
        let f = |x: f64| (((x / 400.0 + 0.008) / 1.008) * std::f64::consts::FRAC_PI_2).cos().powi(2);
        for (k, beta) in betas.iter().enumerate() {
            let want = (1.0 - f(k as f64 + 1.0) / f(k as f64)).clamp(1e-5, 0.999);
            assert!((f64::from(*beta) - want).abs() < 2e-5, "beta_{k} = {beta}, want {want}");
        }
        assert!(betas.iter().all(|b| *b > 0.0 && *b <= 0.999));
    }

    #[test]
    fn linear_betas_run_from_start_to_end() {
        let betas = values(&linear_betas(1000, LINEAR_START, LINEAR_END).expect("betas"));
        assert!((betas[0] - 1e-4).abs() < 1e-9 && (betas[999] - 0.02).abs() < 1e-8);
        assert!(betas.windows(2).all(|w| w[0] < w[1]));
    }

    #[test]
    fn noise_that_falls_is_refused() {
        assert!(linear_betas(10, 0.02, 1e-4).is_err());
        assert!(linear_betas(10, 0.02, 0.02).is_ok());
    }

    #[test]
    fn one_step_is_legal_and_none_is_not() {
        assert_eq!(values(&cosine_betas(1, COSINE_OFFSET).expect("betas")).len(), 1);
        for steps in [0, -3] {
            assert!(cosine_betas(steps, COSINE_OFFSET).is_err());
            assert!(linear_betas(steps, LINEAR_START, LINEAR_END).is_err());
        }
    }
}
