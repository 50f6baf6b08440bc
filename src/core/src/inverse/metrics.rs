//! How close a reconstruction is, image by image.

use tch::{Kind, Tensor};

use crate::choice::Choice;
use crate::diffusion::process::check_same;
use crate::error::{ensure, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// -10 log10 of the mean squared error: decibels, for pictures in [0, 1].
    Psnr,
    /// Structural similarity (Wang et al. 2004) for pictures in [0, 1].
    Ssim,
    /// |x - x_true| / |x_true|.
    RelativeError,
    /// The root of the mean squared error.
    Rmse,
}

impl Choice for Metric {
    const WHAT: &'static str = "metric";
    const ALL: &'static [(&'static str, Self)] =
        &[("PSNR", Self::Psnr), ("SSIM", Self::Ssim), ("RE", Self::RelativeError), ("RMSE", Self::Rmse)];
}

/// The window of SSIM: 11 x 11, a Gaussian of standard deviation 1.5.
const WINDOW: i64 = 11;
const WINDOW_STD: f64 = 1.5;
/// (0.01)^2 and (0.03)^2, for pictures in [0, 1].
const C1: f64 = 1e-4;
const C2: f64 = 9e-4;

/// One number per image of (N, C, H, W), float64.
pub fn metric(which: Metric, x: &Tensor, x_true: &Tensor) -> Result<Tensor> {
    check_same(x_true, "x_true", x, "x_pred")?;
    let size = x.size();
    ensure!(size.len() == 4 && x.numel() > 0, Value, "x_pred must have shape (N, C, H, W), got {size:?}");
    let (x, x_true) = (x.f_detach()?.f_to_kind(Kind::Double)?, x_true.f_detach()?.f_to_kind(Kind::Double)?);
    let flat = |x: &Tensor| x.f_flatten(1, -1);
    let mean_square = || flat(&x.f_sub(&x_true)?.f_square()?)?.f_mean_dim([1i64].as_slice(), false, Kind::Double);
    match which {
        Metric::Psnr => Ok(mean_square()?.f_log10()?.f_mul_scalar(-10.0)?),
        Metric::Rmse => Ok(mean_square()?.f_sqrt()?),
        Metric::RelativeError => {
            let scale = flat(&x_true.f_square()?)?.f_mean_dim([1i64].as_slice(), false, Kind::Double)?;
            Ok(mean_square()?.f_div(&scale)?.f_sqrt()?)
        }
        Metric::Ssim => Ok(flat(&similarity(&x, &x_true)?)?.f_mean_dim([1i64].as_slice(), false, Kind::Double)?),
    }
}

/// The map of SSIM, with zeros around the pictures.
fn similarity(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let size = x.size();
    let window = window(x)?;
    let blurred = |x: Tensor| {
        let pictures = x.f_reshape([-1, 1, size[2], size[3]])?;
        let pad = [WINDOW / 2, WINDOW / 2];
        pictures.f_conv2d(&window, None::<Tensor>, [1, 1], pad, [1, 1], 1)?.f_view(size.as_slice())
    };
    let (mean_x, mean_y) = (blurred(x.shallow_clone())?, blurred(y.shallow_clone())?);
    let (xx, yy, xy) = (mean_x.f_square()?, mean_y.f_square()?, mean_x.f_mul(&mean_y)?);
    let var_x = blurred(x.f_square()?)?.f_sub(&xx)?;
    let var_y = blurred(y.f_square()?)?.f_sub(&yy)?;
    let both = blurred(x.f_mul(y)?)?.f_sub(&xy)?;
    let above = twice_plus(&xy, C1)?.f_mul(&twice_plus(&both, C2)?)?;
    let below = xx.f_add(&yy)?.f_add_scalar(C1)?.f_mul(&var_x.f_add(&var_y)?.f_add_scalar(C2)?)?;
    Ok(above.f_div(&below)?)
}

fn twice_plus(x: &Tensor, constant: f64) -> Result<Tensor> {
    Ok(x.f_mul_scalar(2.0)?.f_add_scalar(constant)?)
}

fn window(like: &Tensor) -> Result<Tensor> {
    let place = Tensor::f_arange(WINDOW, (Kind::Double, like.device()))?.f_sub_scalar((WINDOW / 2) as f64)?;
    let line = place.f_square()?.f_div_scalar(-2.0 * WINDOW_STD * WINDOW_STD)?.f_exp()?;
    let line = line.f_div(&line.f_sum(Kind::Double)?)?;
    Ok(line.f_outer(&line)?.f_view([1, 1, WINDOW, WINDOW])?)
}
