//! The two places where something else than the network may speak: methods for inverse problems come in here.

use tch::{Kind, Tensor};

use crate::diffusion::process::Denoised;
use crate::diffusion::schedule::Level;
use crate::diffusion::{Noise, Vjp};
use crate::error::{Error, Result};

/// Where in a run a correction is asked.
#[derive(Debug, Clone, Copy)]
pub struct At {
    /// The step, from 0 to total - 1.
    pub index: usize,
    pub total: usize,
    /// The time that the network was shown.
    pub t: f64,
    /// The level of noise of x_t, and that of the image which the row makes of it.
    pub level: Level,
    pub to: Level,
}

/// Changes an unconditional sampler; one with neither method is the sampler itself.
pub trait Correction {
    /// Whether [`Self::denoised`] differentiates the network here; only then does it keep what that takes.
    fn differentiates(&self, _at: &At) -> bool {
        false
    }

    /// The network has spoken: what the sampler is to take for its word about `x_t`.
    fn denoised(&mut self, _at: &At, _x_t: &Tensor, said: Denoised, _means: &mut Means) -> Result<Denoised> {
        Ok(said)
    }

    /// A step has made `x_next`: what the next one is to begin with. `at` is where the step's last question was.
    fn after(&mut self, _at: &At, x_next: Tensor, _noise: &mut dyn Noise) -> Result<Tensor> {
        Ok(x_next)
    }
}

/// What a correction may use besides its arguments.
pub struct Means<'a> {
    /// The run's own noise, so that seeds hold.
    pub noise: &'a mut dyn Noise,
    pub(super) gradient: Option<Gradient<'a>>,
}

impl Means<'_> {
    /// (d x0_hat / d x_t)^T w, of the shape of x_t, as often as it is asked: through the clamp if x0_hat was clamped. To
    /// be had where [`Correction::differentiates`] said so.
    pub fn x0_vjp(&mut self, w: &Tensor) -> Result<Tensor> {
        let gradient = self.gradient.as_mut();
        gradient.ok_or_else(|| Error::Runtime("a correction differentiates where it said it would not".into()))?.vjp(w)
    }

    /// 1 where x0_hat depends on x_t, 0 where it was clamped; None: nowhere clamped, or not differentiated.
    pub fn free(&self) -> Option<Tensor> {
        self.gradient.as_ref()?.free.as_ref().map(Tensor::shallow_clone)
    }
}

/// The way back from x0_hat through the network to x_t.
pub(super) struct Gradient<'a> {
    pub answer: Box<dyn Vjp + 'a>,
    /// The factor of x_t in what the network was shown.
    pub scale: f64,
    /// Of x_t and the answer in x0_hat.
    pub weights: (f64, f64),
    /// 1 where x0_hat depends on x_t, 0 where it was clamped; None: nowhere clamped.
    pub free: Option<Tensor>,
}

impl Gradient<'_> {
    fn vjp(&mut self, w: &Tensor) -> Result<Tensor> {
        let w = match &self.free {
            Some(free) => w.f_mul(free)?,
            None => w.f_to_kind(Kind::Float)?,
        };
        let (of_x, of_answer) = self.weights;
        let through = self.answer.vjp(&w)?.f_mul_scalar(of_answer * self.scale)?;
        Ok(if of_x == 0.0 { through } else { w.f_mul_scalar(of_x)?.f_add(&through)? })
    }
}
