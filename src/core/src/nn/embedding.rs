//! Sinusoidal features of the timestep (Vaswani et al. 2017, section 3.5; Ho et al. 2020, appendix B).

use tch::{Kind, Tensor};

use super::blueprint::{Order, TimeEmbedding};
use crate::error::Result;

const MAX_PERIOD: f64 = 10_000.0;

/// sin(t w_k) and cos(t w_k) with w_k = exp(-ln(10000) k / (d/2 - shift)), side by side: float32 of shape (B, d); one zero
/// behind them if d is odd.
pub fn sinusoidal(time: &TimeEmbedding, t: &Tensor) -> Result<Tensor> {
    let half = time.features / 2;
    let k = Tensor::f_arange(half, (Kind::Float, t.device()))?;
    let scale = half as f64 - time.frequency_shift;
    let frequencies = k.f_mul_scalar(-MAX_PERIOD.ln())?.f_div_scalar(scale)?.f_exp()?;
    let angles = t.f_to_kind(Kind::Float)?.f_unsqueeze(1)?.f_mul(&frequencies.f_unsqueeze(0)?)?;
    let (sin, cos) = (angles.f_sin()?, angles.f_cos()?);
    let features = match time.order {
        Order::SinCos => Tensor::f_cat(&[sin, cos], 1)?,
        Order::CosSin => Tensor::f_cat(&[cos, sin], 1)?,
    };
    if time.features % 2 == 1 {
        return Ok(features.f_pad([0, 1], "constant", 0.0)?);
    }
    Ok(features)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::blueprint::Linear;

    #[test]
    fn features_of_seven_are_the_published_ones() {
        let layer = Linear { param: 0, cout: 8 };
        let sincos =
            TimeEmbedding { features: 8, order: Order::SinCos, frequency_shift: 1.0, first: layer, second: layer };
        let t = Tensor::from_slice(&[7i64]);
        let got = Vec::<f64>::try_from(sinusoidal(&sincos, &t).expect("features").to_kind(Kind::Double).get(0));
        let want = [0.65699, 0.31922, 0.01508, 0.0007, 0.7539, 0.94768, 0.99989, 1.0];
        assert!(got.expect("numbers").iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-5));
        let cossin = TimeEmbedding { order: Order::CosSin, ..sincos };
        let first = sinusoidal(&cossin, &t).expect("features").double_value(&[0, 0]);
        assert!((first - 0.7539).abs() < 1e-5);
    }
}
