//! One step of a sampler, in operations on tensors alone, so that it can be recorded.

use tch::{Kind, Tensor};

use super::plan::{Beside, Numbers, Rule};
use super::Denoiser;
use crate::diffusion::process::{check_float, Denoised, Mixing};
use crate::error::{ensure, Result};

/// Where a step is in its plan.
pub struct At {
    pub timestep: i64,
    /// Its row of the plan's table, see [`Numbers`].
    pub numbers: Tensor,
}

/// What a step made.
pub struct Stepped {
    /// The next iterate.
    pub x: Tensor,
    /// The clean image that the step believed in, clamped to [-1, 1].
    pub x0_hat: Tensor,
}

/// Draws the step's noise, if it needs any.
pub type Draw<'a> = dyn FnMut() -> Result<Option<Tensor>> + 'a;

/// What makes a sampler's steps.
pub trait Stepper {
    /// From `x` one step on. Noise is drawn once, after the model ran if the model may draw random numbers itself.
    fn step(&mut self, rule: Rule, x: &Tensor, at: &At, draw: &mut Draw) -> Result<Stepped>;
}

impl<D: Denoiser + ?Sized> Stepper for D {
    fn step(&mut self, rule: Rule, x: &Tensor, at: &At, draw: &mut Draw) -> Result<Stepped> {
        let t = Tensor::f_full([x.size()[0]], at.timestep, (Kind::Int64, x.device()))?;
        step(self, rule, x, &t, &at.numbers, draw)
    }
}

/// One step from `x` at timesteps `t`, which are all the same.
pub fn step<D: Denoiser + ?Sized>(
    model: &mut D,
    rule: Rule,
    x: &Tensor,
    t: &Tensor,
    numbers: &Tensor,
    draw: &mut Draw,
) -> Result<Stepped> {
    let numbers = Numbers::of(numbers)?;
    let out = model.predict(x, t)?;
    check_prediction(x, &out)?;
    let mixing = Mixing { signal: numbers.signal, spread: numbers.spread };
    let Denoised { x0_hat, eps_hat: eps } = mixing.read(rule.objective, x, &out.f_to_kind(Kind::Float)?, true)?;
    let beside = match rule.beside {
        Beside::Iterate => x,
        Beside::Eps => &eps,
    };
    let mut next = x0_hat.f_mul(&numbers.clean)?.f_add(&beside.f_mul(&numbers.beside)?)?;
    if let Some(z) = draw()? {
        next = next.f_add(&z.f_mul(&numbers.noise)?)?;
    }
    Ok(Stepped { x: next, x0_hat })
}

fn check_prediction(x: &Tensor, out: &Tensor) -> Result<()> {
    ensure!(
        out.size() == x.size(),
        Value,
        "model must return a tensor of the shape of x_t {:?}, got {:?}",
        x.size(),
        out.size()
    );
    check_float(out, "what model returned")?;
    ensure!(
        out.device() == x.device(),
        Value,
        "model must return a tensor on the device of x_t ({:?}), got {:?}",
        x.device(),
        out.device()
    );
    Ok(())
}
