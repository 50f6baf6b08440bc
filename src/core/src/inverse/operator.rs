//! The seam between an imaging system and whatever restores images: y = K x.

use std::fmt;

use tch::{Kind, Tensor};

use super::solve::{cg, spectrum};
use crate::error::{ensure, Result};
use crate::libtorch::AutocastOff;

/// What an operator takes or gives, without the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// None: any number; each channel is treated like a picture of its own.
    pub channels: Option<i64>,
    pub height: i64,
    pub width: i64,
}

impl Shape {
    pub fn pictures(height: i64, width: i64) -> Self {
        Self { channels: None, height, width }
    }

    /// That of a batch: `images` of them, with as many channels as `like` has where any number will do.
    pub fn batch(self, like: &Tensor) -> [i64; 4] {
        let size = like.size();
        let of = |dim: usize| size.get(dim).copied().unwrap_or(1);
        [of(0), self.channels.unwrap_or(of(1)), self.height, self.width]
    }

    fn fits(self, size: &[i64]) -> bool {
        match *size {
            [images, channels, height, width] => {
                let any = self.channels.is_none_or(|wanted| wanted == channels);
                images > 0 && channels > 0 && any && (height, width) == (self.height, self.width)
            }
            _ => false,
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let channels = self.channels.map_or("C".to_owned(), |channels| channels.to_string());
        write!(f, "(N, {channels}, {}, {})", self.height, self.width)
    }
}

/// K, and its exact adjoint, on batches (N, C, H, W) of float32 or float64. Every image is computed for itself: the bits do
/// not depend on the batch it comes in.
///
/// Both methods may rely on what [`forward`] and [`backward`] have checked.
pub trait LinearOperator: Send + Sync {
    fn img_shape(&self) -> Shape;
    fn out_shape(&self) -> Shape;
    /// K x.
    fn apply(&self, x: &Tensor) -> Result<Tensor>;
    /// K' y.
    fn adjoint(&self, y: &Tensor) -> Result<Tensor>;

    /// The eigenvalues of K'K, where they are known in closed form.
    fn spectrum(&self) -> Option<&dyn spectrum::Spectrum> {
        None
    }

    /// Whether K'K does nearly the same everywhere in an image, sees most of it, and takes much longer than a Fourier transform:
    /// with one number for the spread, samplers then solve their systems near the circulant matrix that is next to it.
    fn nearly_circulant(&self) -> bool {
        false
    }

    /// The dtype that it is looked at in, by [`adjoint_error`] and by [`super::solve::norm`].
    fn precision(&self) -> Kind {
        Kind::Double
    }

    /// 1 where a measurement tells something, 0 where it is always zero, broadcasting over y; None: everywhere 1.
    fn measured(&self) -> Option<Tensor> {
        None
    }
}

/// K x of images that are checked first.
pub fn forward(operator: &dyn LinearOperator, x: &Tensor) -> Result<Tensor> {
    check(x, operator.img_shape(), "x", "the operator's images")?;
    let _precise = AutocastOff::new();
    operator.apply(x)
}

/// K' y of measurements that are checked first.
pub fn backward(operator: &dyn LinearOperator, y: &Tensor) -> Result<Tensor> {
    check(y, operator.out_shape(), "y", "the operator's measurements")?;
    let _precise = AutocastOff::new();
    operator.adjoint(y)
}

/// K'K x.
pub fn normal(operator: &dyn LinearOperator, x: &Tensor) -> Result<Tensor> {
    operator.adjoint(&operator.apply(x)?)
}

/// A batch of this shape, in a dtype that operators compute in.
pub fn check(x: &Tensor, shape: Shape, name: &str, whose: &str) -> Result<()> {
    let kind = x.f_kind()?;
    ensure!(matches!(kind, Kind::Float | Kind::Double), Type, "{name} must be float32 or float64, got {kind:?}");
    let size = x.size();
    ensure!(shape.fits(&size), Value, "{name} must have the shape of {whose} {shape}, got {size:?}");
    Ok(())
}

/// K', an operator like any other.
pub struct Transposed(pub super::Shared);

impl LinearOperator for Transposed {
    fn img_shape(&self) -> Shape {
        self.0.out_shape()
    }
    fn out_shape(&self) -> Shape {
        self.0.img_shape()
    }
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        self.0.adjoint(x)
    }
    fn adjoint(&self, y: &Tensor) -> Result<Tensor> {
        self.0.apply(y)
    }
    fn precision(&self) -> Kind {
        self.0.precision()
    }
}

/// K x = x.
pub struct Identity(pub Shape);

impl LinearOperator for Identity {
    fn img_shape(&self) -> Shape {
        self.0
    }
    fn out_shape(&self) -> Shape {
        self.0
    }
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_detach_copy()?)
    }
    fn adjoint(&self, y: &Tensor) -> Result<Tensor> {
        Ok(y.f_detach_copy()?)
    }
    fn spectrum(&self) -> Option<&dyn spectrum::Spectrum> {
        Some(&spectrum::One)
    }
}

/// How far <K x, y> and <x, K' y> are apart, as a share of |K x| |y|, at most: of made-up x and y, of x and K x, and of K' y
/// and y. The first two have little to do with each other, so that of many numbers a wrong adjoint would hardly show.
pub fn adjoint_error(operator: &dyn LinearOperator, channels: i64, device: tch::Device) -> Result<f64> {
    let sized = |shape: Shape| [1, shape.channels.unwrap_or(channels), shape.height, shape.width];
    let kind = operator.precision();
    let x = waves(&sized(operator.img_shape()), 0.7, (kind, device))?;
    let y = waves(&sized(operator.out_shape()), 0.3, (kind, device))?;
    let (kx, kty) = (forward(operator, &x)?, backward(operator, &y)?);
    let of_kx = apart([&x, &kx], [&kx, &backward(operator, &kx)?])?;
    let of_kty = apart([&kty, &forward(operator, &kty)?], [&y, &kty])?;
    Ok(apart([&x, &kx], [&y, &kty])?.max(of_kx).max(of_kty))
}

/// | <K x, y> - <x, K' y> | / (|K x| |y|) of [x, K x] and [y, K' y].
fn apart([x, kx]: [&Tensor; 2], [y, kty]: [&Tensor; 2]) -> Result<f64> {
    let inner = |a: &Tensor, b: &Tensor| Result::Ok(cg::inner(a, b)?.iter().sum::<f64>());
    let scale = (inner(kx, kx)? * inner(y, y)?).sqrt();
    let apart = (inner(kx, y)? - inner(x, kty)?).abs();
    Ok(if apart == 0.0 { 0.0 } else { apart / scale.max(f64::MIN_POSITIVE) })
}

/// Numbers in [-1, 1] without a pattern that an operator could have too, and without torch's random state.
pub(super) fn waves(size: &[i64], phase: f64, (kind, device): (Kind, tch::Device)) -> Result<Tensor> {
    let count = size.iter().product::<i64>();
    let steps = Tensor::f_arange(count, (Kind::Double, tch::Device::Cpu))?.f_add_scalar(phase)?;
    let mixed = steps.f_square()?.f_mul_scalar(0.618_033_988_749_894_9)?.f_add(&steps.f_mul_scalar(12.9898)?)?;
    Ok(mixed.f_sin()?.f_view(size)?.f_to_kind(kind)?.f_to_device(device)?)
}
