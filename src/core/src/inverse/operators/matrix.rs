//! An operator given as a matrix.

use std::sync::OnceLock;

use tch::{Device, Kind, Tensor};

use crate::error::{ensure, Error, Result};
use crate::inverse::operator::{normal, LinearOperator, Shape};
use crate::inverse::solve::constant::Constant;
use crate::inverse::solve::spectrum::{precise, Function, Spectrum};
use crate::libtorch::is_finite;

/// y = A x for the pixels of x in reading order.
pub struct Matrix {
    /// (m, n), float64 on the CPU.
    a: Constant,
    image: Shape,
    out: Shape,
    basis: OnceLock<Basis>,
}

impl Matrix {
    /// `image` and `out` must have as many pixels as the matrix has columns and rows: per channel, or with all channels.
    pub fn new(a: &Tensor, image: Shape, out: Shape) -> Result<Self> {
        let a = a.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?.f_contiguous()?;
        let size = a.size();
        ensure!(size.len() == 2 && a.numel() > 0, Value, "A must have shape (m, n), got {size:?}");
        ensure!(is_finite(&a)?, Value, "A must be finite");
        for (name, shape, count, what) in
            [("img_shape", image, size[1], "columns"), ("out_shape", out, size[0], "rows")]
        {
            let pixels = pixels(shape);
            ensure!(pixels == count, Value, "{name} {shape} has {pixels} pixels, A has {count} {what}");
        }
        let alike = image.channels.is_some() == out.channels.is_some();
        ensure!(alike, Value, "img_shape and out_shape must both have channels or both have none");
        Ok(Self { a: Constant::new(a), image, out, basis: OnceLock::new() })
    }

    fn product(&self, a: &Tensor, x: &Tensor, shape: Shape) -> Result<Tensor> {
        let columns = x.f_reshape([-1, a.size()[1]])?;
        // one after another: the sums of a product with many columns at once may run in another order
        let rows = (0..columns.size()[0]).map(|i| Ok(a.f_mv(&columns.f_get(i)?)?)).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::f_stack(&rows, 0)?.f_view(shape.batch(x))?)
    }
}

fn pixels(shape: Shape) -> i64 {
    shape.channels.unwrap_or(1) * shape.height * shape.width
}

impl LinearOperator for Matrix {
    fn img_shape(&self) -> Shape {
        self.image
    }
    fn out_shape(&self) -> Shape {
        self.out
    }
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        self.product(&self.a.like(x, x.kind())?, x, self.out)
    }
    fn adjoint(&self, y: &Tensor) -> Result<Tensor> {
        self.product(&self.a.like(y, y.kind())?.f_transpose(0, 1)?, y, self.image)
    }
    fn spectrum(&self) -> Option<&dyn Spectrum> {
        if self.basis.get().is_none() {
            let a = self.a.get();
            let _ = self.basis.set(Basis::of(&a.f_transpose(0, 1).ok()?.f_matmul(&a).ok()?).ok()?);
        }
        self.basis.get().map(|basis| basis as &dyn Spectrum)
    }
}

/// Eigenvectors of K'K as columns, and their eigenvalues.
pub struct Basis {
    vectors: Constant,
    /// (1, 1, n, 1).
    values: Constant,
}

impl Basis {
    /// Of K'K as a matrix (n, n), float64.
    pub fn of(normal: &Tensor) -> Result<Self> {
        let (values, vectors) = normal.f_linalg_eigh("L")?;
        // negative ones are rounding
        let values = values.f_clamp_min(0.0)?.f_view([1, 1, -1, 1])?;
        Ok(Self { vectors: Constant::new(vectors), values: Constant::new(values) })
    }

    /// Of any operator, by applying K'K to each pixel: for small images.
    pub fn of_operator(operator: &dyn LinearOperator) -> Result<Self> {
        let Shape { channels, height, width } = operator.img_shape();
        let shape = [channels.unwrap_or(1), height, width];
        let count = shape.iter().product::<i64>();
        ensure!(
            count <= MOST_PIXELS,
            Value,
            "the operator's singular values are not known in closed form, and {count} pixels are too many to compute them"
        );
        let pixels =
            Tensor::f_eye(count, (operator.precision(), Device::Cpu))?.f_view([count, shape[0], shape[1], shape[2]])?;
        let products = normal(operator, &pixels)?.f_to_kind(Kind::Double)?.f_view([count, count])?;
        Self::of(&products)
    }
}

/// 64 x 64: the decomposition takes some ten seconds.
const MOST_PIXELS: i64 = 4096;

impl Spectrum for Basis {
    fn filter(&self, x: &Tensor, f: &Function) -> Result<Tensor> {
        let kind = precise(x);
        let (vectors, values) = (self.vectors.like(x, kind)?, self.values.like(x, kind)?);
        let count = values.numel() as i64;
        let factors = f(&values)?;
        let pixels = x.f_to_kind(kind)?.f_reshape([x.size()[0], -1, count])?;
        let (own, groups) = (factors.size()[0] > 1, pixels.size()[1]);
        let one = |k: i64| {
            let (image, group) = (k / groups, k % groups);
            let factors = factors.f_get(if own { image } else { 0 })?.f_view([count])?;
            let modes = vectors.f_transpose(0, 1)?.f_mv(&pixels.f_get(image)?.f_get(group)?)?;
            Ok(vectors.f_mv(&modes.f_mul(&factors)?)?)
        };
        let rows = (0..x.size()[0] * groups).map(one).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::f_stack(&rows, 0)?.f_view(x.size().as_slice())?.f_to_kind(x.kind())?)
    }

    fn largest(&self) -> Result<f64> {
        self.values.get().f_max()?.f_double_value(&[]).map_err(Error::from)
    }
}
