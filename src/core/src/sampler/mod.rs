//! Drawing images: a plan for each of the two samplers, the one loop that follows it, what it needs from outside, and
//! what it tells.

mod ddim;
mod ddpm;
mod grid;
mod plan;
mod recorded;
mod step;

use tch::{Device, Kind, Tensor};

pub use ddim::ddim;
pub use ddpm::ddpm;
pub use grid::{check_grid, timestep_grid, Spacing};
pub use plan::{Move, Plan, Rule};
pub use recorded::Recorded;
pub use step::{At, Draw, Stepped, Stepper};

use crate::error::{Error, Result};

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

/// From x_T to an image batch in [-1, 1] by the plan's moves.
pub fn sample(
    stepper: &mut dyn Stepper,
    plan: &Plan,
    x_t: Tensor,
    noise: &mut dyn Noise,
    on_step: &mut OnStep,
) -> Result<Tensor> {
    let (rule, total) = (plan.rule, plan.moves.len());
    let table = plan.table(x_t.device())?;
    let mut x = x_t;
    for (index, &Move { timestep, .. }) in plan.moves.iter().enumerate() {
        let wanted = rule.noisy && index + 1 < total;
        let mut draw = || wanted.then(|| noise.normal(&x.size(), x.device())).transpose();
        let at = At { timestep, numbers: table.f_get(index as i64)? };
        let stepped = stepper.step(rule, &x, &at, &mut draw)?;
        on_step(&Step { index, total, timestep, x: &stepped.x, x0_hat: &stepped.x0_hat })?;
        x = stepped.x;
    }
    Ok(x.f_clamp(-1.0, 1.0)?)
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

    /// The images that a plan leads to, and the number of steps reported.
    pub fn run(model: &mut Oracle, plan: &Plan, start: Tensor) -> (Tensor, usize) {
        let mut steps = 0;
        let mut count = |_: &Step| {
            steps += 1;
            Ok(())
        };
        let out = sample(model, plan, start, &mut TorchNoise, &mut count);
        (out.expect("images"), steps)
    }
}
