//! Drawing images: a plan for each of the two samplers, the one loop that follows it, what it needs from outside, and
//! what it tells.

mod ddim;
mod ddpm;
mod grid;
mod plan;
mod recorded;
mod step;

use tch::Tensor;

pub use ddim::ddim;
pub use ddpm::ddpm;
pub use grid::{check_grid, timestep_grid, Spacing};
pub use plan::{Move, Plan, Rule};
pub use recorded::Recorded;
pub use step::{At, Draw, Stepped, Stepper};

use crate::diffusion::{Denoiser, Noise, Objective};
use crate::error::Result;

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
    use crate::diffusion::TorchNoise;

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

    pub fn schedule(steps: i64) -> crate::diffusion::schedule::Schedule {
        let betas = crate::diffusion::schedule::cosine_betas(steps, 0.008).expect("betas");
        crate::diffusion::schedule::Schedule::from_betas(&betas).expect("a schedule")
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
