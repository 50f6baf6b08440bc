//! Pixels that are known and pixels that are not.

use tch::{Device, Kind, Tensor};

use crate::error::{ensure, Result};
use crate::inverse::operator::{LinearOperator, Shape};
use crate::inverse::solve::constant::Constant;
use crate::inverse::solve::spectrum::{Diagonal, Spectrum};

/// y = mask * x; an unknown pixel is measured as 0.
pub struct Inpainting {
    shape: Shape,
    /// 1 where a pixel is known, float32, (1, 1 or C, H, W).
    mask: Constant,
    squares: Diagonal,
}

impl Inpainting {
    /// `mask` of 0 and 1, (H, W) or (C, H, W).
    pub fn new(mask: &Tensor) -> Result<Self> {
        let mask = mask.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?;
        let size = mask.size();
        let (channels, plane) = match *size {
            [height, width] => (None, [height, width]),
            [channels, height, width] => (Some(channels), [height, width]),
            _ => (None, [0, 0]),
        };
        ensure!(mask.numel() > 0 && plane != [0, 0], Value, "mask must have shape (H, W) or (C, H, W), got {size:?}");
        let ones = mask.f_eq(1.0)?;
        let binary = ones.f_logical_or(&mask.f_eq(0.0)?)?.f_all()?.f_int64_value(&[])? == 1;
        ensure!(binary, Value, "mask must hold 1 (or True) where a pixel is known and 0 where not, and nothing else");
        ensure!(ones.f_any()?.f_int64_value(&[])? == 1, Value, "mask keeps no pixel: nothing would be measured");
        let mask = mask.f_view([1, channels.unwrap_or(1), plane[0], plane[1]])?;
        let squares = Diagonal::of(mask.f_to_kind(Kind::Double)?);
        Ok(Self { shape: Shape { channels, height: plane[0], width: plane[1] }, mask: Constant::new(mask), squares })
    }

    fn masked(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_mul(&self.mask.like(x, Kind::Float)?)?)
    }
}

impl LinearOperator for Inpainting {
    fn img_shape(&self) -> Shape {
        self.shape
    }
    fn out_shape(&self) -> Shape {
        self.shape
    }
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        self.masked(x)
    }
    fn adjoint(&self, y: &Tensor) -> Result<Tensor> {
        self.masked(y)
    }
    fn spectrum(&self) -> Option<&dyn Spectrum> {
        Some(&self.squares)
    }
    fn measured(&self) -> Option<Tensor> {
        Some(self.mask.get())
    }
}
