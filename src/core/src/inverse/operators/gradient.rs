//! Forward differences of a picture.

use tch::Tensor;

use crate::error::{ensure, Result};
use crate::inverse::operator::{LinearOperator, Shape};

/// (N, 1, H, W) -> (N, 2, H, W): x[i + 1, j] - x[i, j] in channel 0, x[i, j + 1] - x[i, j] in channel 1; 0 in the last row or
/// column.
pub struct Gradient {
    height: i64,
    width: i64,
}

impl Gradient {
    pub fn new(height: i64, width: i64) -> Result<Self> {
        ensure!(height >= 1 && width >= 1, Value, "img_shape must be positive, got ({height}, {width})");
        Ok(Self { height, width })
    }

    fn size(&self, dim: i64) -> i64 {
        if dim == 2 {
            self.height
        } else {
            self.width
        }
    }
}

impl LinearOperator for Gradient {
    fn img_shape(&self) -> Shape {
        Shape { channels: Some(1), height: self.height, width: self.width }
    }

    fn out_shape(&self) -> Shape {
        Shape { channels: Some(2), ..self.img_shape() }
    }

    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let y = Tensor::f_zeros(self.out_shape().batch(x), (x.kind(), x.device()))?;
        for (channel, dim) in [(0, 2), (1, 3)] {
            let inner = self.size(dim) - 1;
            let steps = x.f_narrow(dim, 1, inner)?.f_sub(&x.f_narrow(dim, 0, inner)?)?;
            y.f_narrow(1, channel, 1)?.f_narrow(dim, 0, inner)?.f_copy_(&steps)?;
        }
        Ok(y)
    }

    fn adjoint(&self, y: &Tensor) -> Result<Tensor> {
        let x = Tensor::f_zeros(self.img_shape().batch(y), (y.kind(), y.device()))?;
        for (channel, dim) in [(0, 2), (1, 3)] {
            let inner = self.size(dim) - 1;
            let steps = y.f_narrow(1, channel, 1)?.f_narrow(dim, 0, inner)?;
            let _ = x.f_narrow(dim, 1, inner)?.f_add_(&steps)?;
            let _ = x.f_narrow(dim, 0, inner)?.f_sub_(&steps)?;
        }
        Ok(x)
    }
}
