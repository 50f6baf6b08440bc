//! The seam of randomness.

use tch::{Device, Kind, Tensor};

use crate::error::Result;

/// Where standard normal numbers come from, each call one draw of the sampler's contract.
pub trait Noise {
    fn normal(&mut self, shape: &[i64], device: Device) -> Result<Tensor>;
}

/// torch's global generator of the device: `torch.manual_seed` rules.
pub struct TorchNoise;

impl Noise for TorchNoise {
    fn normal(&mut self, shape: &[i64], device: Device) -> Result<Tensor> {
        Ok(Tensor::f_randn(shape, (Kind::Float, device))?)
    }
}
