//! Fewer pixels: means over blocks, or every f-th pixel.

use tch::{Device, Kind, Tensor};

use crate::choice::Choice;
use crate::error::{ensure, Result};
use crate::inverse::operator::{normal, LinearOperator, Shape};
use crate::inverse::solve::spectrum::{multiplied, number, Diagonal, Function, Spectrum};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// The mean of f x f pixels: K K' = I / f^2.
    #[default]
    Avg,
    /// The first pixel of f x f.
    Naive,
}

impl Choice for Mode {
    const WHAT: &'static str = "mode";
    const ALL: &'static [(&'static str, Self)] = &[("avg", Self::Avg), ("naive", Self::Naive)];
}

/// Checks that `factor` divides the image's sides.
fn check(height: i64, width: i64, factor: i64) -> Result<()> {
    let fits = factor >= 1 && height % factor == 0 && width % factor == 0;
    ensure!(fits, Value, "downscale_factor must divide height and width ({height}, {width}), got {factor}");
    Ok(())
}

pub struct Means {
    height: i64,
    width: i64,
    factor: i64,
}

impl Means {
    pub fn new(height: i64, width: i64, factor: i64) -> Result<Self> {
        check(height, width, factor)?;
        Ok(Self { height, width, factor })
    }

    fn share(&self) -> f64 {
        1.0 / (self.factor * self.factor) as f64
    }
}

impl LinearOperator for Means {
    fn img_shape(&self) -> Shape {
        Shape::pictures(self.height, self.width)
    }

    fn out_shape(&self) -> Shape {
        Shape::pictures(self.height / self.factor, self.width / self.factor)
    }

    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let [images, channels, height, width] = self.out_shape().batch(x);
        let blocks = x.f_reshape([images, channels, height, self.factor, width, self.factor])?;
        Ok(blocks.f_mean_dim([3i64, 5].as_slice(), false, x.kind())?)
    }

    fn adjoint(&self, y: &Tensor) -> Result<Tensor> {
        let [images, channels, height, width] = self.out_shape().batch(y);
        let shares = y.f_mul_scalar(self.share())?.f_unsqueeze(-1)?.f_unsqueeze(3)?;
        let blocks = shares.f_expand([images, channels, height, self.factor, width, self.factor], false)?;
        Ok(blocks.f_reshape(self.img_shape().batch(y))?)
    }

    fn spectrum(&self) -> Option<&dyn Spectrum> {
        Some(self)
    }
}

/// Two eigenvalues: 1/f^2 for images that are constant on each block, 0 for those whose blocks have mean 0.
impl Spectrum for Means {
    fn filter(&self, x: &Tensor, f: &Function) -> Result<Tensor> {
        let (of_means, of_rest) = (f(&number(self.share(), x)?)?, f(&number(0.0, x)?)?);
        let means = normal(self, x)?.f_div_scalar(self.share())?;
        Ok(multiplied(&means, &of_means)?.f_add(&multiplied(&x.f_sub(&means)?, &of_rest)?)?)
    }

    fn largest(&self) -> Result<f64> {
        Ok(self.share())
    }
}

pub struct EveryOther {
    height: i64,
    width: i64,
    factor: i64,
    /// 1 at the pixels that are kept, (H, W).
    kept: Diagonal,
}

impl EveryOther {
    pub fn new(height: i64, width: i64, factor: i64) -> Result<Self> {
        check(height, width, factor)?;
        let kept = Tensor::f_zeros([1, 1, height, width], (Kind::Double, Device::Cpu))?;
        let _ = thinned(&kept, factor)?.f_fill_(1.0)?;
        Ok(Self { height, width, factor, kept: Diagonal::of(kept) })
    }
}

/// The pixels that are kept, in the memory of `x`.
fn thinned(x: &Tensor, factor: i64) -> Result<Tensor> {
    Ok(x.f_slice(2, 0, None, factor)?.f_slice(3, 0, None, factor)?)
}

impl LinearOperator for EveryOther {
    fn img_shape(&self) -> Shape {
        Shape::pictures(self.height, self.width)
    }

    fn out_shape(&self) -> Shape {
        Shape::pictures(self.height / self.factor, self.width / self.factor)
    }

    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        Ok(thinned(x, self.factor)?.f_contiguous()?)
    }

    fn adjoint(&self, y: &Tensor) -> Result<Tensor> {
        let x = Tensor::f_zeros(self.img_shape().batch(y), (y.kind(), y.device()))?;
        thinned(&x, self.factor)?.f_copy_(y)?;
        Ok(x)
    }

    fn spectrum(&self) -> Option<&dyn Spectrum> {
        Some(&self.kept)
    }
}
