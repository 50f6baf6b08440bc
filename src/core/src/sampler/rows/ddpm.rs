//! Ancestral sampling, Ho et al. 2020, algorithm 2: the posterior of equations 6 and 7, with x0_hat clamped as in their code.

use crate::diffusion::schedule::{Level, Schedule};
use crate::error::{ensure, Result};
use crate::sampler::table::{Ask, Row, Said, Table};

/// The posterior variance vanishes towards the last step; the course keeps it above this.
const MIN_VARIANCE: f32 = 1e-20;
/// Where x_t holds less noise than this (a variance), float32 cannot tell how much: it is taken for the clean image.
const NO_NOISE: f32 = 1e-6;
/// What a schedule in a short type may be off by; arguments in the wrong places are off by more.
const ROUNDING: f32 = 0.1;

/// Through every timestep, drawing noise in each step but the last. The numbers are computed in float32, as the course
/// computes them, so that the same seed gives the same image.
pub fn ddpm(schedule: &Schedule) -> Result<Table> {
    let Schedule { betas, alphas, alpha_bars } = schedule;
    let total = schedule.len();
    ensure!(
        betas.len() == total && alphas.len() == total,
        Value,
        "betas, alphas and alpha_bars must have the same length, got {}, {} and {total}",
        betas.len(),
        alphas.len()
    );
    let mut rows: Vec<Row> = Vec::with_capacity(total);
    let mut before = 1.0;
    for (k, ((beta, alpha), alpha_bar)) in betas.iter().zip(alphas).zip(alpha_bars).enumerate() {
        for (name, given, follows) in [("alphas", *alpha, 1.0 - beta), ("alpha_bars", *alpha_bar, before * alpha)] {
            ensure!(
                (given - follows).abs() <= ROUNDING,
                Value,
                "{name} must follow from betas (alphas = 1 - betas, alpha_bars their running product): \
                 at timestep {k} it has {given}, not {follows}"
            );
        }
        let noise = 1.0 - alpha_bar;
        let (x0, x) = match noise < NO_NOISE {
            true => (1.0, 0.0),
            false => (beta * f32::sqrt(before) / noise, (1.0 - before) * alpha.sqrt() / noise),
        };
        let variance = (beta * (1.0 - before) / noise).max(MIN_VARIANCE);
        rows.push(Row {
            ask: Some(Ask { t: k as f64, level: Level::of_alpha_bar(*alpha_bar) }),
            a: vec![(0, x.into())],
            b: vec![(Said::X0(0), x0.into())],
            s: (k > 0).then(|| variance.sqrt().into()),
            to: if k > 0 { Level::of_alpha_bar(before) } else { Level::CLEAN },
            ends_step: true,
        });
        before = *alpha_bar;
    }
    rows.reverse();
    Ok(Table { rows })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::schedule::linear_betas;
    use crate::sampler::table::checks::keeps_its_levels;
    use crate::sampler::testing::{schedule, Oracle};
    use tch::{Device, Kind, Tensor};

    #[test]
    fn rows_lead_from_level_to_level() {
        for steps in [1, 2, 20, 400] {
            let schedule = schedule(steps);
            let start = Level::of_alpha_bar(schedule.alpha_bars[steps as usize - 1]);
            keeps_its_levels(&ddpm(&schedule).expect("a table"), start, 2e-3);
        }
    }

    #[test]
    fn an_exact_denoiser_leads_to_its_image_through_every_timestep() {
        let schedule = schedule(20);
        let mut model = Oracle::of(&schedule, 0.25);
        let start = Tensor::randn([2, 1, 4, 4], (Kind::Float, Device::Cpu));
        let (out, steps) = model.draw(&ddpm(&schedule).expect("a table"), start);
        assert!(f64::try_from((out - 0.25).abs().max()).expect("a number") < 1e-3);
        assert_eq!(steps, 20);
        assert_eq!(model.seen, (0..20).rev().map(|k| k as f64).collect::<Vec<_>>());
    }

    #[test]
    fn steps_too_small_for_float32_leave_the_image_as_it_is() {
        let betas = linear_betas(12, 1e-9, 1e-7).expect("betas");
        let table = ddpm(&Schedule::from_betas(&betas).expect("a schedule")).expect("a table");
        for row in &table.rows {
            assert_eq!((row.a[0].1, row.b[0].1), (0.0, 1.0));
            assert!(row.s.is_none_or(|s| s.is_finite() && s < 1e-3));
        }
    }
}
