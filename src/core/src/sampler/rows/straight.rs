//! Straight paths from noise to image: rectified flow (Liu et al. 2023), in the steps of Stable Diffusion 3 (Esser et al. 2024).

use super::{euler, heun};
use crate::choice::Choice;
use crate::diffusion::objective::FLOW_TIME;
use crate::error::{ensure, Result};
use crate::sampler::path::Path;
use crate::sampler::table::Table;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FlowSolver {
    #[default]
    Euler,
    Heun,
}

impl Choice for FlowSolver {
    const WHAT: &'static str = "solver";
    const ALL: &'static [(&'static str, Self)] = &[("euler", Self::Euler), ("heun", Self::Heun)];
}

/// `steps` steps from noise to image; a `shift` above 1 spends more of them on much noise (Esser et al. 2024, equation 23).
pub fn flow(steps: usize, solver: FlowSolver, shift: f64) -> Result<Table> {
    ensure!(steps > 0, Value, "sample_steps must be at least 1, got {steps}");
    ensure!(shift.is_finite() && shift > 0.0, Value, "shift must be a finite number above 0, got {shift}");
    let path = Path::straight(&shares(steps, shift), FLOW_TIME);
    Ok(match solver {
        FlowSolver::Euler => euler(&path, false),
        FlowSolver::Heun => heun(&path),
    })
}

/// Shares of noise as diffusers spreads them: evenly from 1 to the lowest share of a thousand, which is shifted already, and
/// then shifted.
fn shares(steps: usize, shift: f64) -> Vec<f64> {
    let shifted = |s: f64| shift * s / (1.0 + (shift - 1.0) * s);
    let lowest = shifted(1.0 / FLOW_TIME);
    let stride = if steps > 1 { (lowest - 1.0) / (steps - 1) as f64 } else { 0.0 };
    (0..steps).map(|index| shifted(1.0 + index as f64 * stride)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::schedule::Level;
    use crate::sampler::table::checks::keeps_its_levels;

    #[test]
    fn rows_lead_from_noise_to_image() {
        for (_, solver) in FlowSolver::ALL {
            for shift in [1.0, 3.0] {
                let table = flow(12, *solver, shift).expect("a table");
                keeps_its_levels(&table, Level { signal: 0.0, spread: 1.0 }, 1e-12);
                assert_eq!(table.steps(), 12);
                assert!(table.ends_clean());
            }
        }
    }

    #[test]
    fn shares_fall_from_one_and_shift_towards_noise() {
        assert_eq!(shares(1, 1.0), [1.0]);
        let (plain, shifted) = (shares(5, 1.0), shares(5, 3.0));
        assert!((plain[2] - 0.5005).abs() < 1e-12 && (plain[4] - 0.001).abs() < 1e-12);
        assert!(shifted.iter().zip(&plain).skip(1).all(|(b, a)| b > a));
        assert!(flow(0, FlowSolver::Euler, 1.0).is_err() && flow(3, FlowSolver::Euler, 0.0).is_err());
    }
}
