//! Sinusoidal features of the timestep (Vaswani et al. 2017, section 3.5; Ho et al. 2020, appendix B).

use tch::{Kind, Tensor};

use crate::error::Result;

const MAX_PERIOD: f64 = 10_000.0;

/// e(t) = [sin(t w_k), cos(t w_k)] with w_k = exp(-ln(10000) k / (d/2)): float32 of shape (B, dim).
pub fn sinusoidal(t: &Tensor, dim: i64) -> Result<Tensor> {
    let half = dim / 2;
    let k = Tensor::f_arange(half, (Kind::Float, t.device()))?;
    let frequencies = k.f_mul_scalar(-MAX_PERIOD.ln())?.f_div_scalar(half as f64)?.f_exp()?;
    let angles = t.f_to_kind(Kind::Float)?.f_unsqueeze(1)?.f_mul(&frequencies.f_unsqueeze(0)?)?;
    let features = Tensor::f_cat(&[angles.f_sin()?, angles.f_cos()?], 1)?;
    if dim % 2 == 1 {
        return Ok(features.f_pad([0, 1], "constant", 0.0)?);
    }
    Ok(features)
}
