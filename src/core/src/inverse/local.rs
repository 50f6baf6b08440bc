//! A denoiser errs more where more happens: the variance of its error at a pixel, from how much it says changes around it.

use tch::{Device, Kind, Tensor};

use super::denoising::squares_by_mode;
use super::solve::constant::Constant;
use super::solve::spectrum::precise;
use crate::diffusion::process::Denoised;
use crate::error::Result;
use crate::sampler::{At, Correction, Means};

/// Weights of a pixel's neighbours up to three away, on either side, for the pixel's own 1: a normal curve, one pixel wide.
const NEIGHBOURS: [f64; 3] = [0.606_530_659_712_633_4, 0.135_335_283_236_612_7, 0.011_108_996_538_242_306];
/// Where less changes than this it is all one: a hundredth of a grey level from pixel to pixel.
const QUIET: f64 = 1e-8;
/// So many points has the curve from gradients to variances, each for as many pixels.
const POINTS: i64 = 16;

/// The squared gradient of images, averaged around each pixel, (N, C, H, W), and no less than what is quiet.
pub fn gradients(images: &Tensor) -> Result<Tensor> {
    let mut sum = images.f_zeros_like()?;
    for dim in [2, 3] {
        let steps = images.f_diff::<Tensor>(1, dim, None, None)?.f_square()?;
        // each step belongs to both of its pixels
        for pad in [[1, 0], [0, 1]] {
            let pad = if dim == 2 { vec![0, 0, pad[0], pad[1]] } else { pad.to_vec() };
            sum = sum.f_add(&steps.f_constant_pad_nd(pad.as_slice())?.f_mul_scalar(0.5)?)?;
        }
    }
    Ok(smoothed(&smoothed(&sum, 2)?, 3)?.f_clamp_min(QUIET)?)
}

/// Averaged with its neighbours along a dimension; beyond the edge everything is as at the edge.
fn smoothed(images: &Tensor, dim: i64) -> Result<Tensor> {
    let reach = NEIGHBOURS.len() as i64;
    let size = images.size()[dim as usize];
    let pad = if dim == 2 { [0, 0, reach, reach] } else { [reach, reach, 0, 0] };
    let wide = images.f_pad(pad, "replicate", None)?;
    let mut sum = images.shallow_clone();
    for (far, weight) in (1..).zip(NEIGHBOURS) {
        for start in [reach - far, reach + far] {
            sum = sum.f_add(&wide.f_narrow(dim, start, size)?.f_mul_scalar(weight)?)?;
        }
    }
    Ok(sum.f_div_scalar(1.0 + 2.0 * NEIGHBOURS.iter().sum::<f64>())?)
}

/// The variance of a pixel's error as a function of [`gradients`]: straight lines from point to point, both axes logarithmic.
pub struct Local {
    /// Logarithms, rising, (points,).
    gradients: Constant,
    /// Logarithms, (points,).
    variances: Constant,
}

impl Local {
    /// Through the points with these `gradients`, rising, and these `variances`, all above 0.
    pub fn through(gradients: &Tensor, variances: &Tensor) -> Result<Self> {
        let logs = |of: &Tensor| Result::Ok(Constant::new(of.f_to_kind(Kind::Double)?.f_log()?));
        Ok(Self { gradients: logs(gradients)?, variances: logs(variances)? })
    }

    /// Standard deviations of the pixels of `x0_hat`, in its shape and dtype.
    pub fn deviations(&self, x0_hat: &Tensor) -> Result<Tensor> {
        Ok(self.at(&gradients(x0_hat)?)?.f_sqrt()?.f_to_kind(x0_hat.kind())?)
    }

    fn at(&self, gradients: &Tensor) -> Result<Tensor> {
        let kind = precise(gradients);
        let [points, variances] = [&self.gradients, &self.variances].map(|line| line.like(gradients, kind));
        let (points, variances) = (points?, variances?);
        let place = gradients.f_to_kind(kind)?.f_log()?.f_contiguous()?;
        let after = place.f_searchsorted(&points, false, true, "right", None::<Tensor>)?;
        let last = points.size()[0] - 1;
        let of = |line: &Tensor, index: &Tensor| line.f_take(&index.f_clamp(0, last)?);
        let before = after.f_sub_scalar(1)?;
        let (left, right) = (of(&points, &before)?, of(&points, &after)?);
        let share = place.f_sub(&left)?.f_div(&right.f_sub(&left)?.f_clamp_min(f64::from(f32::MIN_POSITIVE))?)?;
        let (low, high) = (of(&variances, &before)?, of(&variances, &after)?);
        Ok(low.f_lerp_tensor(&high, &share.f_clamp(0.0, 1.0)?)?.f_exp()?)
    }
}

/// Gathers along the visits of `denoising` how far estimates are off, and puts the known images in the network's place.
pub struct Apart {
    images: Tensor,
    found: Vec<Tensor>,
}

impl Apart {
    pub fn new(images: &Tensor) -> Self {
        Self { images: images.shallow_clone(), found: vec![] }
    }

    /// [`gradients`] of x0_hat and x0_hat - x0, (visits, 2, N, C, H, W), on the CPU.
    pub fn found(&self) -> Result<Tensor> {
        Ok(Tensor::f_stack(&self.found, 0)?)
    }
}

impl Correction for Apart {
    fn denoised(&mut self, _: &At, _: &Tensor, said: Denoised, _: &mut Means) -> Result<Denoised> {
        let both = [gradients(&said.x0_hat)?, said.x0_hat.f_sub(&self.images)?];
        self.found.push(Tensor::f_stack(&both, 0)?.f_to_device(Device::Cpu)?);
        Ok(Denoised { x0_hat: self.images.shallow_clone(), ..said })
    }
}

/// What was found at one timestep.
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
    Ok(Measured { gradients: places, variances, modes: modes.f_clamp_min(least)?.f_to_device(Device::Cpu)? })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(of: &Tensor) -> Vec<f64> {
        Vec::try_from(of.to_kind(Kind::Double).view([-1])).expect("a line")
    }

    #[test]
    fn a_ramp_has_its_slope_for_gradient_and_flat_is_quiet() {
        let ramp =
            Tensor::arange(12, (Kind::Float, Device::Cpu)).view([1, 1, 12, 1]).expand([1, 1, 12, 9], false) * 0.1;
        let found = gradients(&ramp).expect("gradients").narrow(2, 4, 4);
        assert!(numbers(&found).iter().all(|value| (value - 0.01).abs() < 1e-6));
        let flat = gradients(&Tensor::ones([1, 2, 1, 5], (Kind::Float, Device::Cpu))).expect("gradients");
        assert!(numbers(&flat).iter().all(|value| (value / QUIET - 1.0).abs() < 1e-6));
    }

    #[test]
    fn between_points_and_beyond_them() {
        let points = [1e-8, 1e-8, 1e-4, 1e-2].map(|x: f64| x);
        let local = Local::through(&Tensor::from_slice(&points), &Tensor::from_slice(&[1e-5, 1e-5, 1e-3, 4e-3]));
        let at = Tensor::from_slice(&[1e-9, 1e-8, 1e-6, 1e-4, 1.0]);
        let found = numbers(&local.expect("a curve").at(&at).expect("variances"));
        for (found, want) in found.iter().zip([1e-5, 1e-5, 1e-4, 1e-3, 4e-3]) {
            assert!((found / want - 1.0).abs() < 1e-5, "{found} for {want}");
        }
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
