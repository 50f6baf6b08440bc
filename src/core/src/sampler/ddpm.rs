//! Ancestral sampling, Ho et al. 2020, algorithm 2, with x0_hat clamped (their section 3.2, equations 6 and 7).

use super::plan::{Beside, Move, Plan, Rule};
use super::Objective;
use crate::diffusion::schedule::Schedule;
use crate::error::{ensure, Result};

/// The posterior variance vanishes towards the last step; the course keeps it above this.
const MIN_VARIANCE: f32 = 1e-20;

/// Through every timestep, drawing one normal tensor per step except the last.
pub fn ddpm(schedule: &Schedule, objective: Objective) -> Result<Plan> {
    let total = schedule.len();
    ensure!(
        schedule.betas.len() == total && schedule.alphas.len() == total,
        Value,
        "betas, alphas and alpha_bars must have the same length, got {}, {} and {total}",
        schedule.betas.len(),
        schedule.alphas.len()
    );
    let posterior = |k: usize| {
        let (beta, alpha, alpha_bar) = (schedule.betas[k], schedule.alphas[k], schedule.alpha_bars[k]);
        let before = if k > 0 { schedule.alpha_bars[k - 1] } else { 1.0 };
        let variance = beta * (1.0 - before) / (1.0 - alpha_bar);
        Move {
            timestep: k as i64,
            alpha_bar,
            clean: beta * before.sqrt() / (1.0 - alpha_bar),
            beside: (1.0 - before) * alpha.sqrt() / (1.0 - alpha_bar),
            noise: if k > 0 { variance.max(MIN_VARIANCE).sqrt() } else { 0.0 },
        }
    };
    let rule = Rule { objective, beside: Beside::Iterate, noisy: true };
    Ok(Plan { rule, moves: (0..total).rev().map(posterior).collect() })
}

#[cfg(test)]
mod tests {
    use super::super::fakes::{run, schedule, Oracle};
    use super::*;
    use tch::{Device, Kind, Tensor};

    #[test]
    fn an_exact_denoiser_leads_to_its_image_through_every_timestep() {
        let schedule = schedule(20);
        let mut model = Oracle { alpha_bars: schedule.alpha_bars.clone(), x0: 0.25, seen: vec![] };
        let start = Tensor::randn([2, 1, 4, 4], (Kind::Float, Device::Cpu));
        let (out, steps) = run(&mut model, &ddpm(&schedule, Objective::Eps).expect("a plan"), start);
        assert!(f64::try_from((out - 0.25).abs().max()).expect("a number") < 1e-3);
        assert_eq!(steps, 20);
        assert_eq!(model.seen, (0..20).rev().collect::<Vec<i64>>());
    }
}
