//! How wrong a denoiser is at each timestep, on images that are known: the variance of x0 given x_t that the methods ask for.

use tch::{Device, Kind, Tensor};

use super::local::{gradients, Local};
use super::methods::renoised;
use super::solve::cg::inner;
use crate::choice::Choice;
use crate::diffusion::process::Denoised;
use crate::diffusion::schedule::Level;
use crate::error::Result;
use crate::sampler::{At, Correction, Means, Row, Table};

/// So many points has the curve from gradients to variances, each for as many pixels.
const POINTS: i64 = 16;

/// From clean images, noised to each of the timesteps in turn, each time with fresh noise.
pub fn visits(alpha_bars: &[f32], grid: &[i64]) -> Result<Table> {
    let mut table = renoised(alpha_bars, grid, 0.0, 1.0)?;
    if let Some(level) = table.rows.first().and_then(|row| row.ask).map(|ask| ask.level) {
        let first = Row { a: vec![(0, level.signal)], s: Some(level.spread), ends_step: false, ..Row::to(level) };
        table.rows.insert(0, first);
    }
    Ok(table)
}

/// What of the errors is gathered at each visit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Gathered {
    /// Squares, summed over images and pixels: one number.
    Pixels,
    /// Squares, summed over images and channels, of each Fourier mode: (H, W / 2 + 1).
    Modes,
    /// All that [`measured`] asks for: [`gradients`] of x0_hat and x0_hat - x0, (2, N, C, H, W).
    Places,
}

impl Choice for Gathered {
    const WHAT: &'static str = "gathered";
    const ALL: &'static [(&'static str, Self)] =
        &[("pixels", Self::Pixels), ("modes", Self::Modes), ("places", Self::Places)];
}

/// Gathers x0_hat - x0 along [`visits`], and puts the known images in the network's place.
pub struct DenoisingError {
    images: Tensor,
    gathered: Gathered,
    found: Vec<Tensor>,
}

impl DenoisingError {
    pub fn new(images: &Tensor, gathered: Gathered) -> Self {
        Self { images: images.shallow_clone(), gathered, found: vec![] }
    }

    /// At each timestep that was visited, (visits, ...), on the CPU; squares are float64.
    pub fn found(&self) -> Result<Tensor> {
        Ok(Tensor::f_stack(&self.found, 0)?)
    }
}

/// The squares of the Fourier modes, (H, W / 2 + 1), summed over images and channels; those of the norm "ortho", whose squares
/// have the sum of the pixels'.
fn squares_by_mode(apart: &Tensor) -> Result<Tensor> {
    let (images, channels, height, width) = apart.size4()?;
    let mut sum = Tensor::f_zeros([height, width / 2 + 1], (Kind::Double, apart.device()))?;
    for plane in apart.f_to_kind(Kind::Double)?.f_view([images * channels, height, width])?.f_unbind(0)? {
        // one after another: a transform of many at once may give other bits than that of one
        let modes = plane.f_fft_rfft2([height, width].as_slice(), [-2, -1], "ortho")?;
        sum = sum.f_add(&modes.f_abs()?.f_square()?)?;
    }
    Ok(sum.f_to_device(Device::Cpu)?)
}

impl Correction for DenoisingError {
    fn denoised(&mut self, _: &At, _: &Tensor, said: Denoised, _: &mut Means) -> Result<Denoised> {
        let apart = said.x0_hat.f_sub(&self.images)?;
        self.found.push(match self.gathered {
            Gathered::Pixels => Tensor::f_from_slice(&inner(&apart, &apart)?)?.f_sum(Kind::Double)?,
            Gathered::Modes => squares_by_mode(&apart)?,
            Gathered::Places => Tensor::f_stack(&[gradients(&said.x0_hat)?, apart], 0)?.f_to_device(Device::Cpu)?,
        });
        Ok(Denoised { x0_hat: self.images.shallow_clone(), ..said })
    }
}

/// How wrong it is at one timestep where more or less happens.
pub struct Measured {
    /// (points,), rising.
    pub gradients: Tensor,
    /// (points,).
    pub variances: Tensor,
    /// Of the errors' Fourier modes, each error over its pixel's standard deviation, (H, W / 2 + 1).
    pub modes: Tensor,
}

/// From estimates whose [`gradients`] are known and which are `apart` from the truth, both (N, C, H, W). No variance is below
/// `floor`.
pub fn measured(gradients: &Tensor, apart: &Tensor, floor: f64) -> Result<Measured> {
    let line = |of: &Tensor| of.f_to_kind(Kind::Double)?.f_flatten(0, -1);
    let (logs, order) = line(gradients)?.f_log()?.f_sort_stable(true, 0, false)?;
    let squares = line(apart)?.f_square()?.f_index_select(0, &order)?;
    let (pixels, points) = (logs.numel() as i64, POINTS.min(logs.numel() as i64));
    let means = |of: &Tensor| {
        let ends = (0..points).map(|k| (k * pixels / points, (k + 1) * pixels / points));
        let mean = |(start, end)| Ok(of.f_narrow(0, start, end - start)?.f_mean(Kind::Double)?.f_double_value(&[])?);
        ends.map(mean).collect::<Result<Vec<f64>>>()
    };
    let (places, mut variances) = (means(&logs)?, means(&squares)?);
    pool(&places, &mut variances);
    let tensor = |of: &[f64]| Tensor::f_from_slice(of);
    let (places, variances) = (tensor(&places)?.f_exp()?, tensor(&variances)?.f_clamp_min(floor)?);

    let around = Local::through(&places, &variances)?.at(gradients)?;
    let modes = squares_by_mode(&apart.f_div(&around.f_sqrt()?)?)?;
    let modes = modes.f_div_scalar((apart.size()[0] * apart.size()[1]) as f64)?;
    let least = floor / around.f_mean(Kind::Double)?.f_double_value(&[])?;
    Ok(Measured { gradients: places, variances, modes: modes.f_clamp_min(least)? })
}

/// Points with the same gradient, such as those of air, get the mean of their variances.
fn pool(places: &[f64], variances: &mut [f64]) {
    let mut start = 0;
    while start < places.len() {
        let same = places[start..].iter().take_while(|place| **place - places[start] < 1e-6).count().max(1);
        let these = &mut variances[start..start + same];
        let mean = these.iter().sum::<f64>() / same as f64;
        these.fill(mean);
        start += same;
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

    #[test]
    fn errors_that_grow_with_the_gradient_are_found_and_leave_white_noise() {
        tch::manual_seed(0);
        let gradients = Tensor::rand([40, 1, 16, 16], (Kind::Double, Device::Cpu)) * 0.09 + 0.01;
        let apart = Tensor::randn([40, 1, 16, 16], (Kind::Double, Device::Cpu)) * gradients.sqrt();
        let Measured { gradients, variances, modes } = measured(&gradients, &apart, 1e-9).expect("measured");
        let wrong = (variances / gradients - 1.0).abs().max();
        assert!(wrong.double_value(&[]) < 0.2 && (modes.mean(Kind::Double) - 1.0).abs().double_value(&[]) < 0.05);
    }

    #[test]
    fn what_is_equally_quiet_is_equally_sure() {
        let mut variances = [1.0, 3.0, 5.0, 7.0];
        pool(&[0.0, 0.0, 0.0, 1.0], &mut variances);
        assert_eq!(variances, [3.0, 3.0, 3.0, 7.0]);
        let mut none = [f64::NAN];
        pool(&[f64::NAN], &mut none);
        assert!(none[0].is_nan());
    }
}
