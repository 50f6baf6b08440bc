//! How wrong a denoiser is at each timestep, on images that are known: the variance of x0 given x_t that the methods ask for.

use tch::Tensor;

use super::methods::renoised;
use super::solve::cg::inner;
use crate::diffusion::process::Denoised;
use crate::diffusion::schedule::Level;
use crate::error::Result;
use crate::sampler::{At, Correction, Means, Row, Table};

/// From clean images, noised to each of the timesteps in turn, each time with fresh noise.
pub fn visits(alpha_bars: &[f32], grid: &[i64]) -> Result<Table> {
    let mut table = renoised(alpha_bars, grid, 0.0, 1.0)?;
    if let Some(level) = table.rows.first().and_then(|row| row.ask).map(|ask| ask.level) {
        let first = Row { a: vec![(0, level.signal)], s: Some(level.spread), ends_step: false, ..Row::to(level) };
        table.rows.insert(0, first);
    }
    Ok(table)
}

/// Gathers |x0_hat - x0|^2 along [`visits`], and puts the known images in the network's place.
pub struct DenoisingError {
    images: Tensor,
    squares: Vec<f64>,
}

impl DenoisingError {
    pub fn new(images: &Tensor) -> Self {
        Self { images: images.shallow_clone(), squares: vec![] }
    }

    /// At each timestep that was visited, summed over images and pixels; float64.
    pub fn squares(&self) -> Result<Tensor> {
        Ok(Tensor::f_from_slice(&self.squares)?)
    }
}

impl Correction for DenoisingError {
    fn denoised(&mut self, _: &At, _: &Tensor, said: Denoised, _: &mut Means) -> Result<Denoised> {
        let apart = said.x0_hat.f_sub(&self.images)?;
        self.squares.push(inner(&apart, &apart)?.iter().sum());
        Ok(Denoised { x0_hat: self.images.shallow_clone(), ..said })
    }
}

/// Errors (above 0) on the grid as errors at every timestep: straight lines over the logarithm of (1 - ab) / ab, where the error
/// of a Gaussian's denoiser goes over from slope 1 to slope 0; beyond the ends of the grid, those of its ends.
pub fn at_every_timestep(alpha_bars: &[f32], grid: &[i64], errors: &[f64]) -> Vec<f64> {
    let place = |k: usize| {
        let Level { signal, spread } = Level::of_alpha_bar(alpha_bars[k.min(alpha_bars.len() - 1)]);
        (spread / signal).max(f64::MIN_POSITIVE).ln()
    };
    let mut known: Vec<(f64, f64)> =
        grid.iter().zip(errors).map(|(k, error)| (place(*k as usize), error.ln())).collect();
    known.sort_by(|a, b| a.0.total_cmp(&b.0));
    (0..alpha_bars.len()).map(|k| between(&known, place(k)).exp()).collect()
}

fn between(known: &[(f64, f64)], place: f64) -> f64 {
    let after = known.partition_point(|(there, _)| *there < place);
    match (after.checked_sub(1).and_then(|before| known.get(before)), known.get(after)) {
        (Some((left, low)), Some((right, high))) => low + (high - low) * (place - left) / (right - left),
        (Some((_, end)), None) | (None, Some((_, end))) => *end,
        (None, None) => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::schedule::{cosine_betas, Schedule};

    #[test]
    fn a_gaussians_error_is_met_between_the_timesteps_that_were_visited() {
        let bars = Schedule::from_betas(&cosine_betas(400, 0.008).expect("betas")).expect("a schedule").alpha_bars;
        let exact = |bar: f32| 0.25 * (1.0 - f64::from(bar)) / (0.25 * f64::from(bar) + 1.0 - f64::from(bar));
        let grid: Vec<i64> = (0..50).rev().map(|i| i * 399 / 49).collect();
        let errors: Vec<f64> = grid.iter().map(|k| exact(bars[*k as usize])).collect();
        let found = at_every_timestep(&bars, &grid, &errors);
        for (bar, error) in bars.iter().zip(found) {
            assert!((error / exact(*bar) - 1.0).abs() < 0.02, "{error} for {}", exact(*bar));
        }
    }

    #[test]
    fn beyond_the_grid_its_ends_hold() {
        let found = at_every_timestep(&[0.9, 0.5, 0.1], &[1], &[0.3]);
        assert!(found.iter().all(|error| (error - 0.3).abs() < 1e-12), "{found:?}");
    }
}
