//! Denoising diffusion implicit models, Song, Meng and Ermon 2021, equations 12 and 16.

use super::plan::{Beside, Move, Plan, Rule};
use super::Objective;

/// Along `grid`, a strictly decreasing list of timesteps; each step goes to the next entry, the last to the clean image.
/// Draws a normal tensor per step except the last if eta > 0, none otherwise.
pub fn ddim(alpha_bars: &[f32], grid: &[i64], eta: f64, objective: Objective) -> Plan {
    let moves = grid.iter().enumerate().map(|(index, &timestep)| {
        let alpha_bar = alpha_bars[timestep as usize];
        let Some(next) = grid.get(index + 1) else {
            return Move { timestep, alpha_bar, clean: 1.0, beside: 0.0, noise: 0.0 };
        };
        let target = alpha_bars[*next as usize];
        let sigma = eta as f32 * ((1.0 - target) / (1.0 - alpha_bar) * (1.0 - alpha_bar / target)).max(0.0).sqrt();
        Move {
            timestep,
            alpha_bar,
            clean: target.sqrt(),
            beside: (1.0 - target - sigma * sigma).max(0.0).sqrt(),
            noise: sigma,
        }
    });
    let rule = Rule { objective, beside: Beside::Eps, noisy: eta > 0.0 };
    Plan { rule, moves: moves.collect() }
}

#[cfg(test)]
mod tests {
    use super::super::fakes::{run, schedule, Oracle};
    use super::super::{timestep_grid, Spacing};
    use super::*;
    use tch::{Device, Kind, Tensor};

    #[test]
    fn every_number_of_steps_calls_the_model_that_often_and_reaches_the_image() {
        let schedule = schedule(12);
        for steps in 1..=12 {
            for eta in [0.0, 0.7] {
                let grid = timestep_grid(12, steps, Spacing::Course).expect("a grid");
                let mut model = Oracle { alpha_bars: schedule.alpha_bars.clone(), x0: -0.5, seen: vec![] };
                let start = Tensor::randn([1, 1, 4, 4], (Kind::Float, Device::Cpu));
                let (out, count) = run(&mut model, &ddim(&schedule.alpha_bars, &grid, eta, Objective::Eps), start);
                assert_eq!(model.seen, grid);
                assert_eq!(count as i64, steps);
                assert!(f64::try_from((out + 0.5).abs().max()).expect("a number") < 1e-2);
            }
        }
    }
}
