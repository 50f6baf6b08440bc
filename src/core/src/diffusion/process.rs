//! The noising process in closed form, and the way from one prediction to another: for the trainer, the samplers and
//! the host's functions alike.

use tch::{Kind, Tensor};

use super::objective::{Objective, FLOW_TIME};
use super::schedule::Level;
use crate::error::{ensure, Error, Result};

/// x_t = signal x0 + spread eps: two single elements, or a column of them that broadcasts over a batch.
pub struct Mixing {
    pub signal: Tensor,
    pub spread: Tensor,
}

/// What a network says about x_t, whatever it was trained for.
pub struct Denoised {
    pub x0_hat: Tensor,
    pub eps_hat: Tensor,
}

/// An eps that is divided out of x_t and x0 is divided by no less than this.
const MIN_SPREAD: f64 = 1e-8;

impl Mixing {
    /// The same for all images, on any device.
    pub fn of(level: Level) -> Result<Self> {
        let number = |value: f64| Tensor::f_from_slice(&[value])?.f_squeeze();
        Ok(Self { signal: number(level.signal)?, spread: number(level.spread)? })
    }

    /// That of timestep t (B,) for each image of a batch of shape `x_shape`.
    pub fn at(alpha_bars: &Tensor, t: &Tensor, x_shape: &[i64]) -> Result<Self> {
        Ok(Self {
            signal: extract(&alpha_bars.f_sqrt()?, t, x_shape)?,
            spread: extract(&alpha_bars.f_neg()?.f_add_scalar(1.0)?.f_sqrt()?, t, x_shape)?,
        })
    }

    /// That of images on straight paths at times t (B,), as a network for "flow" is shown them.
    pub fn straight(t: &Tensor, x_shape: &[i64]) -> Result<Self> {
        let mut shape = vec![1; x_shape.len()];
        shape[0] = -1;
        let spread = t.f_div_scalar(FLOW_TIME)?.f_view(&shape[..])?;
        Ok(Self { signal: spread.f_neg()?.f_add_scalar(1.0)?, spread })
    }

    /// x_t, equation 4 of Ho et al. 2020.
    pub fn noised(&self, x0: &Tensor, eps: &Tensor) -> Result<Tensor> {
        Ok(self.signal.f_mul(x0)?.f_add(&self.spread.f_mul(eps)?)?)
    }

    /// The clean image behind x_t and eps, equation 15 of Ho et al. 2020.
    pub fn x0(&self, x_t: &Tensor, eps: &Tensor) -> Result<Tensor> {
        Ok(x_t.f_sub(&self.spread.f_mul(eps)?)?.f_div(&self.signal)?)
    }

    /// The noise between x_t and x0.
    pub fn eps(&self, x_t: &Tensor, x0: &Tensor) -> Result<Tensor> {
        Ok(x_t.f_sub(&x0.f_mul(&self.signal)?)?.f_div(&self.spread.f_clamp_min(MIN_SPREAD)?)?)
    }

    /// What the network should have answered.
    pub fn target(&self, objective: Objective, x0: &Tensor, eps: &Tensor) -> Result<Tensor> {
        match objective {
            Objective::Eps => Ok(eps.shallow_clone()),
            Objective::X0 => Ok(x0.shallow_clone()),
            Objective::V => Ok(self.signal.f_mul(eps)?.f_sub(&self.spread.f_mul(x0)?)?),
            Objective::Flow => Ok(eps.f_sub(x0)?),
        }
    }

    /// What the network's answer says about x_t, x0_hat clamped to [-1, 1] if `clamp`.
    ///
    /// eps_hat stays the network's own also where x0_hat was clamped, as in the course.
    pub fn read(&self, objective: Objective, x_t: &Tensor, answer: &Tensor, clamp: bool) -> Result<Denoised> {
        let clamped = |x0: Tensor| if clamp { Ok(x0.f_clamp(-1.0, 1.0)?) } else { Result::Ok(x0) };
        match objective {
            Objective::Eps => Ok(Denoised { x0_hat: clamped(self.x0(x_t, answer)?)?, eps_hat: answer.shallow_clone() }),
            Objective::X0 => Ok(Denoised { eps_hat: self.eps(x_t, answer)?, x0_hat: clamped(answer.shallow_clone())? }),
            Objective::V => {
                let x0_hat = x_t.f_mul(&self.signal)?.f_sub(&answer.f_mul(&self.spread)?)?;
                let eps_hat = x_t.f_mul(&self.spread)?.f_add(&answer.f_mul(&self.signal)?)?;
                Ok(Denoised { x0_hat: clamped(x0_hat)?, eps_hat })
            }
            Objective::Flow => {
                let whole = self.signal.f_add(&self.spread)?;
                let x0_hat = x_t.f_sub(&answer.f_mul(&self.spread)?)?.f_div(&whole)?;
                let eps_hat = x_t.f_add(&answer.f_mul(&self.signal)?)?.f_div(&whole)?;
                Ok(Denoised { x0_hat: clamped(x0_hat)?, eps_hat })
            }
        }
    }
}

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
    Mixing::at(alpha_bars, t, &x0.size())?.noised(x0, noise)
}

/// Equation 15 of Ho et al. 2020: (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t).
pub fn predict_x0_from_eps(x_t: &Tensor, eps: &Tensor, t: &Tensor, alpha_bars: &Tensor) -> Result<Tensor> {
    check_same(x_t, "x_t", eps, "eps_pred")?;
    check_batch(x_t, "x_t", t)?;
    Mixing::at(alpha_bars, t, &x_t.size())?.x0(x_t, eps)
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

pub(crate) fn check_batch(x: &Tensor, name: &str, t: &Tensor) -> Result<()> {
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
    use crate::choice::Choice;
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
    fn every_objective_is_read_back_from_its_own_target() {
        let mixing = Mixing::of(Level { signal: 0.8, spread: 0.6 }).expect("numbers");
        let draw = || Tensor::randn([2, 1, 4, 4], (Kind::Float, Device::Cpu));
        let (x0, eps) = (draw().clamp(-0.9, 0.9), draw());
        let x_t = mixing.noised(&x0, &eps).expect("x_t");
        for (name, objective) in Objective::ALL {
            let answer = mixing.target(*objective, &x0, &eps).expect("a target");
            for clamp in [true, false] {
                let Denoised { x0_hat, eps_hat } = mixing.read(*objective, &x_t, &answer, clamp).expect("a reading");
                for (got, want) in [(x0_hat, &x0), (eps_hat, &eps)] {
                    assert!(f64::try_from((got - want).abs().max()).expect("a number") < 1e-5, "{name}");
                }
            }
        }
    }

    #[test]
    fn a_clamp_is_of_x0_hat_alone_and_only_if_asked_for() {
        let mixing = Mixing::of(Level { signal: 0.5, spread: 0.5 }).expect("numbers");
        let x_t = Tensor::from_slice(&[4f32]);
        let eps = Tensor::from_slice(&[1f32]);
        let number = |x: &Tensor| x.double_value(&[0]);
        let said = |clamp| mixing.read(Objective::Eps, &x_t, &eps, clamp).expect("a reading");
        assert_eq!((number(&said(true).x0_hat), number(&said(true).eps_hat)), (1.0, 1.0));
        assert_eq!(number(&said(false).x0_hat), 7.0);
    }

    #[test]
    fn a_timestep_outside_the_schedule_is_named() {
        let alpha_bars = Tensor::from_slice(&[0.9f32, 0.5]);
        let t = Tensor::from_slice(&[2i64]);
        let err = extract(&alpha_bars, &t, &[1, 1]).expect_err("an error").to_string();
        assert!(err.contains("t must lie in 0..1"), "{err}");
    }
}
