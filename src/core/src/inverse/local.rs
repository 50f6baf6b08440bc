//! A denoiser errs more where more happens: the variance of its error at a pixel, from how much it says changes around it.

use tch::{Kind, Tensor};

use super::solve::constant::Constant;
use super::solve::spectrum::precise;
use crate::error::Result;

/// Weights of a pixel's neighbours up to three away, on either side, for the pixel's own 1: a normal curve, one pixel wide.
const NEIGHBOURS: [f64; 3] = [0.606_530_659_712_633_4, 0.135_335_283_236_612_7, 0.011_108_996_538_242_306];
/// Where less changes than this it is all one: a hundredth of a grey level from pixel to pixel.
const QUIET: f64 = 1e-8;

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

    /// Variances, where the [`gradients`] are known already.
    pub fn at(&self, gradients: &Tensor) -> Result<Tensor> {
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

#[cfg(test)]
mod tests {
    use tch::Device;

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
}
