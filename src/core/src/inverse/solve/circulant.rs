//! What Fourier modes are the eigenvectors of: correlations on a torus, and covariances that are the same everywhere.

use tch::Tensor;

use super::constant::Constant;
use super::spectrum::{precise, Function, Spectrum};
use crate::error::Result;

/// K'K for K a correlation with circular boundary, or a covariance.
pub struct Circulant {
    /// Eigenvalues, (H, W / 2 + 1), or (N, 1, H, W / 2 + 1) for N images, on the CPU: for K'K the square of the transfer
    /// function, for a covariance the variance of each mode.
    values: Constant,
}

impl Circulant {
    /// Of a kernel (k, l), float64, no larger than the image. Where it is anchored turns phases only, which K'K has not.
    pub fn new(kernel: &Tensor, height: i64, width: i64) -> Result<Self> {
        let transfer = kernel.f_fft_rfft2([height, width].as_slice(), [-2, -1], "backward")?;
        Ok(Self::with(transfer.f_abs()?.f_square()?))
    }

    /// With these eigenvalues, (H, W / 2 + 1) or (N, 1, H, W / 2 + 1).
    pub fn with(values: Tensor) -> Self {
        Self { values: Constant::new(values) }
    }

    pub fn values(&self) -> Tensor {
        self.values.get()
    }

    /// Multiplies the modes of x, (N, C, H, W), with these `factors` instead of the eigenvalues.
    pub fn times(&self, x: &Tensor, factors: &Tensor) -> Result<Tensor> {
        self.filter(x, &|_| Ok(factors.shallow_clone()))
    }

    /// [H, W / 2 + 1].
    pub fn size(&self) -> Vec<i64> {
        self.values.get().size()
    }
}

impl Spectrum for Circulant {
    fn filter(&self, x: &Tensor, f: &Function) -> Result<Tensor> {
        let size = x.size();
        let plane = [size[2], size[3]];
        let kind = precise(x);
        let values = self.values.like(x, kind)?.f_view([-1, 1, plane[0], plane[1] / 2 + 1])?;
        let factors = f(&values)?;
        let one = |image: &Tensor, factors: &Tensor| {
            let modes = image.f_to_kind(kind)?.f_fft_rfft2(plane.as_slice(), [-2, -1], "backward")?;
            modes.f_mul(factors)?.f_fft_irfft2(plane.as_slice(), [-2, -1], "backward")
        };
        // one after another: a transform of many at once may take another path, and give other bits, than that of one
        let filtered = (0..size[0]).map(|i| {
            let own = if factors.size()[0] > 1 { i } else { 0 };
            Ok(one(&x.f_narrow(0, i, 1)?, &factors.f_narrow(0, own, 1)?)?)
        });
        let filtered = filtered.collect::<Result<Vec<_>>>()?;
        Ok(Tensor::f_cat(&filtered, 0)?.f_to_kind(x.kind())?)
    }

    fn largest(&self) -> Result<f64> {
        Ok(self.values.get().f_max()?.f_double_value(&[])?)
    }
}
