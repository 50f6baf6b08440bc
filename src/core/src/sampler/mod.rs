//! Drawing images: the two samplers, what they need from outside, and what they tell.

mod ddim;
mod ddpm;
mod grid;
mod recorded;

use tch::{Device, Kind, Tensor};

pub use ddim::ddim;
pub use ddpm::ddpm;
pub use grid::{check_grid, timestep_grid, Spacing};
pub use recorded::Recorded;

use crate::error::{ensure, Error, Result};

/// (x_t, t) -> the network's prediction, of the shape of x_t. t has shape (B,), int64, on x's device.
pub trait Denoiser {
    fn predict(&mut self, x: &Tensor, t: &Tensor) -> Result<Tensor>;
}

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

/// What is known after each step.
pub struct Step<'a> {
    /// From 0 to total - 1.
    pub index: usize,
    pub total: usize,
    pub timestep: i64,
    /// The next iterate, what the step made of x_t.
    pub x: &'a Tensor,
    /// The clean image that the step believed in, clamped to [-1, 1].
    pub x0_hat: &'a Tensor,
}

/// Called after each step; an error ends the run.
pub type OnStep<'a> = dyn FnMut(&Step) -> Result<()> + 'a;

/// What the network was trained to predict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Objective {
    #[default]
    Eps,
    X0,
    V,
}

impl Objective {
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "eps" => Ok(Self::Eps),
            "x0" => Ok(Self::X0),
            "v" => Ok(Self::V),
            other => Err(Error::Value(format!("objective must be \"eps\", \"x0\" or \"v\", got \"{other}\""))),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Eps => "eps",
            Self::X0 => "x0",
            Self::V => "v",
        }
    }
}

/// The network at one timestep, read as (x0_hat clamped to [-1, 1], eps).
///
/// eps stays the network's own word where it predicts eps, also after x0_hat was clamped, as in the course.
pub(crate) fn predict(
    model: &mut dyn Denoiser,
    objective: Objective,
    x: &Tensor,
    timestep: i64,
    alpha_bar: f32,
) -> Result<(Tensor, Tensor)> {
    let t = Tensor::f_full([x.size()[0]], timestep, (Kind::Int64, x.device()))?;
    let out = model.predict(x, &t)?;
    ensure!(
        out.size() == x.size(),
        Value,
        "model must return a tensor of the shape of x_t {:?}, got {:?}",
        x.size(),
        out.size()
    );
    crate::forward::check_float(&out, "what model returned")?;
    ensure!(
        out.device() == x.device(),
        Value,
        "model must return a tensor on the device of x_t ({:?}), got {:?}",
        x.device(),
        out.device()
    );
    let out = out.f_to_kind(Kind::Float)?;
    let signal = f64::from(alpha_bar.sqrt());
    let spread = f64::from((1.0 - alpha_bar).sqrt());
    let x0_from = |eps: &Tensor| -> Result<Tensor> {
        Ok(x.f_sub(&eps.f_mul_scalar(spread)?)?.f_div_scalar(signal)?.f_clamp(-1.0, 1.0)?)
    };
    match objective {
        Objective::Eps => Ok((x0_from(&out)?, out)),
        Objective::X0 => {
            let x0 = out.f_clamp(-1.0, 1.0)?;
            let eps = x.f_sub(&x0.f_mul_scalar(signal)?)?.f_div_scalar(spread.max(1e-8))?;
            Ok((x0, eps))
        }
        Objective::V => {
            let x0 = x.f_mul_scalar(signal)?.f_sub(&out.f_mul_scalar(spread)?)?.f_clamp(-1.0, 1.0)?;
            let eps = x.f_mul_scalar(spread)?.f_add(&out.f_mul_scalar(signal)?)?;
            Ok((x0, eps))
        }
    }
}

#[cfg(test)]
pub(crate) mod fakes {
    use super::*;

    /// Predicts the noise exactly, for data that is the constant `x0`.
    pub struct Oracle {
        pub alpha_bars: Vec<f32>,
        pub x0: f64,
        pub seen: Vec<i64>,
    }

    impl Denoiser for Oracle {
        fn predict(&mut self, x: &Tensor, t: &Tensor) -> Result<Tensor> {
            let k = t.f_int64_value(&[0])?;
            self.seen.push(k);
            let abar = f64::from(self.alpha_bars[k as usize]);
            Ok(x.f_sub_scalar(self.x0 * abar.sqrt())?.f_div_scalar((1.0 - abar).sqrt())?)
        }
    }

    pub fn schedule(steps: i64) -> crate::schedule::Schedule {
        let betas = crate::schedule::cosine_betas(steps, 0.008).expect("betas");
        crate::schedule::Schedule::from_betas(&betas).expect("a schedule")
    }
}
