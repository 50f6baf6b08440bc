//! How wrong a denoiser is at each timestep, on images that are known: the variance of x0 given x_t that the methods ask for.

use tch::{Kind, Tensor};

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
    by_mode: bool,
    squares: Vec<Tensor>,
}

impl DenoisingError {
    /// `by_mode`: for each Fourier mode instead of for all pixels together.
    pub fn new(images: &Tensor, by_mode: bool) -> Self {
        Self { images: images.shallow_clone(), by_mode, squares: vec![] }
    }

    /// At each timestep that was visited, float64: summed over images and pixels, (visits,), or over images and channels,
    /// (visits, H, W / 2 + 1).
    pub fn squares(&self) -> Result<Tensor> {
        Ok(Tensor::f_stack(&self.squares, 0)?)
    }
}

/// The squares of the Fourier modes, (H, W / 2 + 1), summed over images and channels; those of the norm "ortho", whose squares
/// have the sum of the pixels'.
pub fn squares_by_mode(apart: &Tensor) -> Result<Tensor> {
    let (images, channels, height, width) = apart.size4()?;
    let mut sum = Tensor::f_zeros([height, width / 2 + 1], (Kind::Double, apart.device()))?;
    for plane in apart.f_to_kind(Kind::Double)?.f_view([images * channels, height, width])?.f_unbind(0)? {
        // one after another: a transform of many at once may give other bits than that of one
        let modes = plane.f_fft_rfft2([height, width].as_slice(), [-2, -1], "ortho")?;
        sum = sum.f_add(&modes.f_abs()?.f_square()?)?;
    }
    Ok(sum.f_to_device(tch::Device::Cpu)?)
}

impl Correction for DenoisingError {
    fn denoised(&mut self, _: &At, _: &Tensor, said: Denoised, _: &mut Means) -> Result<Denoised> {
        let apart = said.x0_hat.f_sub(&self.images)?;
        self.squares.push(match self.by_mode {
            true => squares_by_mode(&apart)?,
            false => Tensor::f_from_slice(&inner(&apart, &apart)?)?.f_sum(Kind::Double)?,
        });
        Ok(Denoised { x0_hat: self.images.shallow_clone(), ..said })
    }
}

/// Errors (above 0), (visits, ...), on the grid as errors at every timestep, (T, ...), float64: straight lines over the logarithm
/// of (1 - ab) / ab, where the error of a Gaussian's denoiser goes over from slope 1 to slope 0; beyond the ends of the grid,
/// those of its ends.
pub fn at_every_timestep(alpha_bars: &[f32], grid: &[i64], errors: &Tensor) -> Result<Tensor> {
    let place = |k: usize| {
        let Level { signal, spread } = Level::of_alpha_bar(alpha_bars[k.min(alpha_bars.len() - 1)]);
        (spread / signal).max(f64::MIN_POSITIVE).ln()
    };
    let mut known: Vec<(f64, i64)> = grid.iter().zip(0..).map(|(k, row)| (place(*k as usize), row)).collect();
    known.sort_by(|a, b| a.0.total_cmp(&b.0));
    let logs = errors.f_to_kind(Kind::Double)?.f_log()?;
    let rows = (0..alpha_bars.len()).map(|k| {
        let (low, high, share) = between(&known, place(k));
        Ok(logs.f_get(low)?.f_lerp(&logs.f_get(high)?, share)?.f_exp()?)
    });
    Ok(Tensor::f_stack(&rows.collect::<Result<Vec<_>>>()?, 0)?)
}

/// The rows that lie before and after a place, and how far it is on the way from the one to the other.
fn between(known: &[(f64, i64)], place: f64) -> (i64, i64, f64) {
    let after = known.partition_point(|(there, _)| *there < place);
    match (after.checked_sub(1).and_then(|before| known.get(before)), known.get(after)) {
        (Some((left, low)), Some((right, high))) => (*low, *high, (place - left) / (right - left)),
        (Some((_, end)), None) | (None, Some((_, end))) => (*end, *end, 0.0),
        (None, None) => (0, 0, 0.0),
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
        let found = at_every_timestep(&bars, &grid, &Tensor::from_slice(&errors)).expect("errors");
        for (bar, error) in bars.iter().zip(Vec::<f64>::try_from(found).expect("a line")) {
            assert!((error / exact(*bar) - 1.0).abs() < 0.02, "{error} for {}", exact(*bar));
        }
    }

    #[test]
    fn beyond_the_grid_its_ends_hold() {
        let found = at_every_timestep(&[0.9, 0.5, 0.1], &[1], &Tensor::from_slice(&[0.3])).expect("errors");
        assert!(Vec::<f64>::try_from(found).expect("a line").iter().all(|error| (error - 0.3).abs() < 1e-12));
    }
}
