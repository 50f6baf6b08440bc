//! Ancestral sampling, Ho et al. 2020, algorithm 2, with x0_hat clamped (their section 3.2, equations 6 and 7).

use tch::Tensor;

use super::{predict, Denoiser, Noise, Objective, OnStep, Step};
use crate::error::{ensure, Result};
use crate::schedule::Schedule;

/// The posterior variance of the last step is 0; the course keeps it above this.
const MIN_VARIANCE: f32 = 1e-20;

/// From x_T to an image batch in [-1, 1]. Draws one normal tensor per step except the last, after the model ran.
pub fn ddpm(
    model: &mut dyn Denoiser,
    objective: Objective,
    x_t: Tensor,
    schedule: &Schedule,
    noise: &mut dyn Noise,
    on_step: &mut OnStep,
) -> Result<Tensor> {
    let total = schedule.len();
    ensure!(
        schedule.betas.len() == total && schedule.alphas.len() == total,
        Value,
        "betas, alphas and alpha_bars must have the same length, got {}, {} and {total}",
        schedule.betas.len(),
        schedule.alphas.len()
    );
    let mut x = x_t;
    for k in (0..total).rev() {
        let (beta, alpha, alpha_bar) = (schedule.betas[k], schedule.alphas[k], schedule.alpha_bars[k]);
        let before = if k > 0 { schedule.alpha_bars[k - 1] } else { 1.0 };
        let (x0_hat, _) = predict(model, objective, &x, k as i64, alpha_bar)?;
        let from_x0 = beta * before.sqrt() / (1.0 - alpha_bar);
        let from_x = (1.0 - before) * alpha.sqrt() / (1.0 - alpha_bar);
        x = x0_hat.f_mul_scalar(f64::from(from_x0))?.f_add(&x.f_mul_scalar(f64::from(from_x))?)?;
        if k > 0 {
            let variance = beta * (1.0 - before) / (1.0 - alpha_bar);
            let z = noise.normal(&x.size(), x.device())?;
            x = x.f_add(&z.f_mul_scalar(f64::from(variance.max(MIN_VARIANCE).sqrt()))?)?;
        }
        on_step(&Step { index: total - 1 - k, total, timestep: k as i64, x: &x, x0_hat: &x0_hat })?;
    }
    Ok(x.f_clamp(-1.0, 1.0)?)
}

#[cfg(test)]
mod tests {
    use super::super::fakes::{schedule, Oracle};
    use super::super::TorchNoise;
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn an_exact_denoiser_leads_to_its_image_through_every_timestep() {
        let schedule = schedule(20);
        let mut model = Oracle { alpha_bars: schedule.alpha_bars.clone(), x0: 0.25, seen: vec![] };
        let start = Tensor::randn([2, 1, 4, 4], (Kind::Float, Device::Cpu));
        let mut steps = 0;
        let mut count = |_: &Step| {
            steps += 1;
            Ok(())
        };
        let out = ddpm(&mut model, Objective::Eps, start, &schedule, &mut TorchNoise, &mut count).expect("images");
        assert!(f64::try_from((out - 0.25).abs().max()).expect("a number") < 1e-3);
        assert_eq!(steps, 20);
        assert_eq!(model.seen, (0..20).rev().collect::<Vec<i64>>());
    }
}
