//! What the samplers' tests share.

use tch::{Device, Kind, Tensor};

use super::{sample, Correction, Outside, Reading, Step, Table};
use crate::diffusion::denoiser::by_autograd;
use crate::diffusion::schedule::{cosine_betas, COSINE_OFFSET};
use crate::diffusion::{Denoiser, Noise, Objective, Schedule, TorchNoise, Vjp};
use crate::error::Result;

pub const EPS: Reading = Reading { objective: Objective::Eps, clip: true };

pub fn schedule(steps: i64) -> Schedule {
    let betas = cosine_betas(steps, COSINE_OFFSET).expect("betas");
    Schedule::from_betas(&betas).expect("a schedule")
}

/// Predicts the noise exactly, for data that is the constant `x0`.
pub struct Oracle {
    pub alpha_bars: Vec<f32>,
    pub x0: f64,
    pub seen: Vec<f64>,
}

impl Oracle {
    pub fn of(schedule: &Schedule, x0: f64) -> Self {
        Self { alpha_bars: schedule.alpha_bars.clone(), x0, seen: vec![] }
    }

    fn eps(&self, x: &Tensor, t: f64) -> Result<Tensor> {
        let abar = f64::from(self.alpha_bars[t as usize]);
        Ok(x.f_sub_scalar(self.x0 * abar.sqrt())?.f_div_scalar((1.0 - abar).sqrt())?)
    }

    /// The images that a table leads to, and the number of steps reported.
    pub fn draw(&mut self, table: &Table, start: Tensor) -> (Tensor, usize) {
        let mut steps = 0;
        let out = run(table, EPS, start, self, &mut TorchNoise, None, &mut |_| {
            steps += 1;
            Ok(())
        });
        (out.expect("images"), steps)
    }
}

impl Denoiser for Oracle {
    fn predict(&mut self, x: &Tensor, t: &Tensor) -> Result<Tensor> {
        let t = t.f_double_value(&[0])?;
        self.seen.push(t);
        self.eps(x, t)
    }

    fn predict_with_vjp<'a>(&'a mut self, x: &Tensor, t: &Tensor) -> Result<(Tensor, Box<dyn Vjp + 'a>)> {
        let t = t.f_double_value(&[0])?;
        by_autograd(x, |x| self.eps(x, t))
    }
}

/// Draws that can be repeated.
pub struct Waves(pub i64);

impl Noise for Waves {
    fn normal(&mut self, shape: &[i64], device: Device) -> Result<Tensor> {
        self.0 += 1;
        let count = shape.iter().product::<i64>();
        Ok(Tensor::f_arange(count, (Kind::Float, device))?.f_add_scalar(self.0)?.f_sin()?.f_view(shape)?)
    }
}

#[allow(clippy::too_many_arguments)]
pub fn run<'a>(
    table: &Table,
    reading: Reading,
    start: Tensor,
    model: &'a mut dyn Denoiser,
    noise: &'a mut dyn Noise,
    correction: Option<&'a mut dyn Correction>,
    on_step: &'a mut (dyn FnMut(&Step) -> Result<()> + 'a),
) -> Result<Tensor> {
    sample(table, reading, start, Outside { model, noise, correction, on_step })
}
