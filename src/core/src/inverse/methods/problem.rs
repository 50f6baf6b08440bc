//! What was measured, what it says of an image, and how a step is guided by it.

use std::sync::OnceLock;

use tch::{Device, Kind, Tensor};

use crate::diffusion::process::Denoised;
use crate::error::{ensure, Result};
use crate::inverse::operator::{check, forward};
use crate::inverse::solve::cg::{inner, Limits, Watch};
use crate::inverse::solve::circulant::Circulant;
use crate::inverse::solve::nearest::nearest;
use crate::inverse::solve::Iterations;
use crate::inverse::Shared;
use crate::sampler::At;

/// By how many standard deviations a draw of x0 given y may be off, in all directions together.
pub(super) const ACCURACY: f64 = 0.2;

/// What was measured: y = K x + sigma n.
pub struct Problem {
    pub operator: Shared,
    /// (N, C, mx, my), float32.
    pub y: Tensor,
    /// One number, or one per image: (N, 1, 1, 1), float64.
    pub sigma: Tensor,
    /// Asked during long solutions.
    pub watch: Watch,
    near: OnceLock<Circulant>,
}

impl Problem {
    /// For images like `x`, checked.
    pub fn new(operator: Shared, y: &Tensor, sigma: Tensor, x: &Tensor, watch: Watch) -> Result<Self> {
        check(x, operator.img_shape(), "x_T", "the operator's images")?;
        check(y, operator.out_shape(), "y", "the operator's measurements")?;
        let (images, measurements) = (x.size()[0], y.size()[0]);
        ensure!(images == measurements, Value, "y has {measurements} measurements, x_T {images} images");
        Ok(Self { operator, y: y.f_detach()?.f_to_kind(Kind::Float)?, sigma, watch, near: OnceLock::new() })
    }

    /// y - K x0.
    pub(super) fn misfit(&self, x0: &Tensor) -> Result<Tensor> {
        Ok(self.y.f_sub(&self.operator.apply(x0)?)?)
    }

    /// K' (y - K x0).
    pub(super) fn pull(&self, x0: &Tensor) -> Result<Tensor> {
        self.operator.adjoint(&self.misfit(x0)?)
    }

    /// sigma^2 in the dtype of images.
    pub(super) fn noise_square(&self) -> Result<Tensor> {
        Ok(self.sigma.f_square()?.f_to_kind(Kind::Float)?)
    }

    /// What K'K does to Fourier modes, all but; made when first asked for.
    pub(super) fn near(&self) -> Result<&Circulant> {
        if let Some(near) = self.near.get() {
            return Ok(near);
        }
        let near = nearest(self.operator.as_ref(), self.y.device())?;
        Ok(self.near.get_or_init(|| near))
    }

    /// How systems with one number for the spread are solved. Whether it pays to be near K'K was weighed on the CPU alone.
    pub(super) fn iterations(&self) -> Result<Iterations<'_>> {
        let near = self.operator.nearly_circulant() && self.operator.spectrum().is_none();
        let pays = near && self.y.device() == Device::Cpu;
        let near = pays.then(|| self.near()).transpose()?;
        Ok(Iterations { limits: self.limits(), near, deviations: ACCURACY })
    }

    /// How accurately systems are solved within a step: well below the noise that is drawn in it.
    pub(super) fn limits(&self) -> Limits {
        Limits { tolerance: 1e-5, iterations: 500, watch: self.watch }
    }
}

/// Moves x0_hat and eps_hat by the gradient `q` of log p(y | x_t): Tweedie's formula with the score of the posterior.
pub(super) fn guided(at: &At, said: Denoised, q: &Tensor) -> Result<Denoised> {
    let (signal, spread) = (at.level.signal, at.level.spread);
    Ok(Denoised {
        x0_hat: said.x0_hat.f_add(&q.f_mul_scalar(spread * spread / signal)?)?,
        eps_hat: said.eps_hat.f_sub(&q.f_mul_scalar(spread)?)?,
    })
}

/// |K x0 - y|^2 / (m sigma^2) of each image, over what was measured: about 1 for an image that explains its measurement.
pub fn residual(operator: &Shared, x0: &Tensor, y: &Tensor, sigma: &Tensor) -> Result<Tensor> {
    let apart = forward(operator.as_ref(), x0)?.f_sub(&y.f_to_kind(x0.kind())?)?;
    let (squares, count) = squares(operator, apart)?;
    let noise = sigma.f_square()?.f_view([-1])?.f_to_device(Device::Cpu)?;
    Ok(squares.f_div_scalar(count)?.f_div(&noise)?)
}

/// The squares of what was measured, summed for each image, (N,), float64, on the CPU, and how many of them there are.
pub(super) fn squares(operator: &Shared, mut apart: Tensor) -> Result<(Tensor, f64)> {
    let mut count = apart.numel() as f64 / apart.size()[0].max(1) as f64;
    if let Some(measured) = operator.measured() {
        count *= measured.f_mean(Kind::Double)?.f_double_value(&[])?;
        apart = apart.f_mul(&measured.f_to_device(apart.device())?)?;
    }
    Ok((Tensor::f_from_slice(&inner(&apart, &apart)?)?, count))
}
