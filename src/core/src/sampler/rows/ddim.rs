//! Denoising diffusion implicit models, Song, Meng and Ermon 2021, equations 12 and 16.

use crate::diffusion::schedule::Level;
use crate::error::{ensure, Result};
use crate::sampler::grid::check_grid;
use crate::sampler::table::{Ask, Row, Said, Table};

/// Along `grid`, a strictly decreasing list of timesteps; each step goes to the next entry, the last to the clean image.
/// Draws noise in each step but the last if eta > 0, none otherwise. The numbers are computed in float32, as the course
/// computes them, so that the same seed gives the same image.
pub fn ddim(alpha_bars: &[f32], grid: &[i64], eta: f64) -> Result<Table> {
    check_grid(grid, alpha_bars.len() as i64)?;
    ensure!(eta.is_finite() && eta >= 0.0, Value, "eta must be a finite number >= 0, got {eta}");
    let levels: Vec<f32> = grid.iter().map(|k| alpha_bars[*k as usize]).collect();
    let row = |index: usize| {
        let next = levels.get(index + 1).copied();
        let (x0, eps, sigma) = next.map_or((1.0, 0.0, 0.0), |next| weights(levels[index], next, eta as f32));
        Row {
            ask: Some(Ask { t: grid[index] as f64, level: Level::of_alpha_bar(levels[index]) }),
            a: vec![],
            b: vec![(Said::X0(0), x0.into()), (Said::Eps(0), eps.into())],
            s: (eta > 0.0 && next.is_some()).then(|| sigma.into()),
            to: next.map_or(Level::CLEAN, Level::of_alpha_bar),
            ends_step: true,
        }
    };
    Ok(Table { rows: (0..grid.len()).map(row).collect() })
}

/// Of x0_hat, eps_hat and noise, on the way from one running product to another.
fn weights(alpha_bar: f32, next: f32, eta: f32) -> (f32, f32, f32) {
    let sigma = eta * ((1.0 - next) / (1.0 - alpha_bar) * (1.0 - alpha_bar / next)).max(0.0).sqrt();
    (next.sqrt(), (1.0 - next - sigma * sigma).max(0.0).sqrt(), sigma)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choice::Choice;
    use crate::sampler::table::checks::keeps_its_levels;
    use crate::sampler::testing::{schedule, Oracle};
    use crate::sampler::{timestep_grid, Spacing};
    use tch::{Device, Kind, Tensor};

    #[test]
    fn rows_lead_from_level_to_level() {
        let schedule = schedule(400);
        for (_, spacing) in Spacing::ALL {
            for eta in [0.0, 0.7, 1.0] {
                let grid = timestep_grid(400, 50, *spacing).expect("a grid");
                let start = Level::of_alpha_bar(schedule.alpha_bars[grid[0] as usize]);
                keeps_its_levels(&ddim(&schedule.alpha_bars, &grid, eta).expect("a table"), start, 1e-6);
            }
        }
    }

    #[test]
    fn every_number_of_steps_calls_the_model_that_often_and_reaches_the_image() {
        let schedule = schedule(12);
        for steps in 1..=12 {
            for eta in [0.0, 0.7] {
                let grid = timestep_grid(12, steps, Spacing::Course).expect("a grid");
                let mut model = Oracle::of(&schedule, -0.5);
                let start = Tensor::randn([1, 1, 4, 4], (Kind::Float, Device::Cpu));
                let table = ddim(&schedule.alpha_bars, &grid, eta).expect("a table");
                let (out, count) = model.draw(&table, start);
                assert_eq!(model.seen, grid.iter().map(|k| *k as f64).collect::<Vec<_>>());
                assert_eq!(count as i64, steps);
                assert!(f64::try_from((out + 0.5).abs().max()).expect("a number") < 1e-2);
            }
        }
    }

    #[test]
    fn a_grid_or_an_eta_that_cannot_be_is_refused() {
        for (grid, eta) in [(vec![], 0.0), (vec![1, 1], 0.0), (vec![3], 0.0), (vec![2], -0.1), (vec![2], f64::NAN)] {
            assert!(ddim(&[0.9, 0.5, 0.1], &grid, eta).is_err());
        }
    }
}
