//! The closed forms of the forward process that the trainer, the samplers and the Python functions share.

use tch::{Kind, Tensor};

use crate::error::{ensure, Error, Result};

/// `coefficients[t]` on t's device, shaped (B, 1, 1, ...) to broadcast over a tensor of shape `x_shape`.
pub fn extract(coefficients: &Tensor, t: &Tensor, x_shape: &[i64]) -> Result<Tensor> {
    check_timesteps(coefficients, t)?;
    let batch = t.size()[0];
    ensure!(!x_shape.is_empty(), Value, "x_shape must have at least one dimension, got {x_shape:?}");
    ensure!(
        x_shape[0] == batch || batch == 1,
        Value,
        "t has {batch} timesteps, x_shape {x_shape:?} has a batch of {}",
        x_shape[0]
    );
    let picked = coefficients.f_to_device(t.device())?.f_index_select(0, &t.f_to_kind(Kind::Int64)?)?;
    let mut shape = vec![1; x_shape.len()];
    shape[0] = batch;
    Ok(picked.f_view(&shape[..])?)
}

/// Equation 4 of Ho et al. 2020: sqrt(abar_t) x0 + sqrt(1 - abar_t) noise.
pub fn q_sample(x0: &Tensor, t: &Tensor, noise: &Tensor, alpha_bars: &Tensor) -> Result<Tensor> {
    check_same(x0, "x0", noise, "noise")?;
    check_batch(x0, "x0", t)?;
    let signal = extract(&alpha_bars.f_sqrt()?, t, &x0.size())?;
    let spread = extract(&alpha_bars.f_neg()?.f_add_scalar(1.0)?.f_sqrt()?, t, &x0.size())?;
    Ok(signal.f_mul(x0)?.f_add(&spread.f_mul(noise)?)?)
}

/// Equation 15 of Ho et al. 2020: (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t).
pub fn predict_x0_from_eps(x_t: &Tensor, eps: &Tensor, t: &Tensor, alpha_bars: &Tensor) -> Result<Tensor> {
    check_same(x_t, "x_t", eps, "eps_pred")?;
    check_batch(x_t, "x_t", t)?;
    let signal = extract(&alpha_bars.f_sqrt()?, t, &x_t.size())?;
    let spread = extract(&alpha_bars.f_neg()?.f_add_scalar(1.0)?.f_sqrt()?, t, &x_t.size())?;
    Ok(x_t.f_sub(&spread.f_mul(eps)?)?.f_div(&signal)?)
}

/// From [-1, 1] to [0, 1], clamped.
pub fn denormalize_to_01(x: &Tensor) -> Result<Tensor> {
    check_float(x, "x")?;
    Ok(x.f_add_scalar(1.0)?.f_div_scalar(2.0)?.f_clamp(0.0, 1.0)?)
}

fn check_timesteps(coefficients: &Tensor, t: &Tensor) -> Result<()> {
    let size = coefficients.size();
    ensure!(size.len() == 1 && size[0] > 0, Value, "coefficients must have shape (T,) with T >= 1, got {size:?}");
    check_float(coefficients, "coefficients")?;
    check_integer_vector(t, "t")?;
    let (low, high) = t.f_aminmax(None::<i64>, false).map(|(a, b)| (a.f_int64_value(&[]), b.f_int64_value(&[])))?;
    let (low, high) = (low?, high?);
    let last = size[0] - 1;
    ensure!(low >= 0 && high <= last, Value, "t must lie in 0..{last}, got values from {low} to {high}");
    Ok(())
}

pub(crate) fn check_integer_vector(t: &Tensor, name: &str) -> Result<()> {
    let size = t.size();
    ensure!(size.len() == 1 && size[0] > 0, Value, "{name} must have shape (B,) with B >= 1, got {size:?}");
    let kind = t.f_kind()?;
    ensure!(
        matches!(kind, Kind::Int64 | Kind::Int | Kind::Int16 | Kind::Int8 | Kind::Uint8),
        Type,
        "{name} must hold integers (torch.long), got {kind:?}"
    );
    Ok(())
}

pub(crate) fn check_float(x: &Tensor, name: &str) -> Result<()> {
    match x.f_kind() {
        Ok(Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16) => Ok(()),
        Ok(kind) => Err(Error::Type(format!("{name} must be a floating-point tensor, got {kind:?}"))),
        Err(_) => {
            Err(Error::Type(format!("{name} must be a floating-point tensor, got a dtype that is not known here")))
        }
    }
}

pub(crate) fn check_same(a: &Tensor, a_name: &str, b: &Tensor, b_name: &str) -> Result<()> {
    check_float(a, a_name)?;
    check_float(b, b_name)?;
    let (a_size, b_size) = (a.size(), b.size());
    ensure!(a_size == b_size, Value, "{b_name} must have the shape of {a_name} {a_size:?}, got {b_size:?}");
    let (a_dev, b_dev) = (a.device(), b.device());
    ensure!(a_dev == b_dev, Value, "{b_name} must be on the device of {a_name} ({a_dev:?}), got {b_dev:?}");
    Ok(())
}

fn check_batch(x: &Tensor, name: &str, t: &Tensor) -> Result<()> {
    check_integer_vector(t, "t")?;
    let (size, batch) = (x.size(), t.size()[0]);
    ensure!(
        !size.is_empty() && (size[0] == batch || batch == 1),
        Value,
        "t must have one timestep per image of {name} {size:?}, got {batch}"
    );
    ensure!(
        x.device() == t.device(),
        Value,
        "t must be on the device of {name} ({:?}), got {:?}",
        x.device(),
        t.device()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn predicting_x0_undoes_q_sample() {
        let alpha_bars = Tensor::from_slice(&[0.9f32, 0.5, 0.1]);
        let x0 = Tensor::randn([3, 1, 4, 4], (Kind::Float, Device::Cpu));
        let noise = Tensor::randn([3, 1, 4, 4], (Kind::Float, Device::Cpu));
        let t = Tensor::from_slice(&[0i64, 1, 2]);
        let x_t = q_sample(&x0, &t, &noise, &alpha_bars).expect("x_t");
        let back = predict_x0_from_eps(&x_t, &noise, &t, &alpha_bars).expect("x0");
        assert!(f64::try_from((back - x0).abs().max()).expect("a number") < 1e-5);
    }

    #[test]
    fn a_timestep_outside_the_schedule_is_named() {
        let alpha_bars = Tensor::from_slice(&[0.9f32, 0.5]);
        let t = Tensor::from_slice(&[2i64]);
        let err = extract(&alpha_bars, &t, &[1, 1]).expect_err("an error").to_string();
        assert!(err.contains("t must lie in 0..1"), "{err}");
    }
}
