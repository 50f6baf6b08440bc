//! Which timesteps a sampler visits.

use tch::{Device, Kind, Tensor};

use crate::choice::Choice;
use crate::error::{ensure, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Spacing {
    /// linspace(T-1, 0, n) in float32, truncated to integers.
    #[default]
    Course,
    /// Multiples of T // n from 0 up (Song, Meng and Ermon 2021, appendix D.2, "linear"; "leading" in diffusers, without its offset).
    Leading,
    /// linspace(0, T-1, n) rounded to the nearest integer.
    Linspace,
    /// T-1 and then down in equal strides (Lin et al. 2023, table 2).
    Trailing,
}

impl Choice for Spacing {
    const WHAT: &'static str = "spacing";
    const ALL: &'static [(&'static str, Self)] = &[
        ("course", Self::Course),
        ("leading", Self::Leading),
        ("linspace", Self::Linspace),
        ("trailing", Self::Trailing),
    ];
}

/// `steps` timesteps out of 0..T-1, decreasing.
pub fn timestep_grid(num_timesteps: i64, steps: i64, spacing: Spacing) -> Result<Vec<i64>> {
    ensure!(
        (1..=num_timesteps).contains(&steps),
        Value,
        "sample_steps must be between 1 and {num_timesteps} (the number of diffusion steps), got {steps}"
    );
    let last = num_timesteps - 1;
    Ok(match spacing {
        Spacing::Course => {
            // linspace as torch computes it in float32, so that truncation falls on the same side
            let grid = Tensor::f_linspace(last, 0, steps, (Kind::Float, Device::Cpu))?.f_to_kind(Kind::Int64)?;
            Vec::<i64>::try_from(&grid)?
        }
        Spacing::Leading => (0..steps).rev().map(|i| i * (num_timesteps / steps)).collect(),
        Spacing::Linspace => {
            let stride = if steps > 1 { last as f64 / (steps - 1) as f64 } else { 0.0 };
            (0..steps).rev().map(|i| (i as f64 * stride).round_ties_even() as i64).collect()
        }
        Spacing::Trailing => {
            let stride = num_timesteps as f64 / steps as f64;
            (0..steps).map(|i| (num_timesteps as f64 - i as f64 * stride).round_ties_even() as i64 - 1).collect()
        }
    })
}

/// A list of timesteps given by hand: strictly decreasing, inside 0..T-1, not empty.
pub fn check_grid(grid: &[i64], num_timesteps: i64) -> Result<()> {
    ensure!(!grid.is_empty(), Value, "timesteps must not be empty");
    ensure!(
        grid.windows(2).all(|pair| pair[0] > pair[1]),
        Value,
        "timesteps must be strictly decreasing, got {grid:?}"
    );
    ensure!(
        grid.iter().all(|k| (0..num_timesteps).contains(k)),
        Value,
        "timesteps must lie in 0..{}, got {grid:?}",
        num_timesteps - 1
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_grid_is_strictly_decreasing_and_has_as_many_entries_as_asked() {
        for (_, spacing) in Spacing::ALL {
            for total in [1, 7, 50, 400] {
                for steps in 1..=total {
                    let grid = timestep_grid(total, steps, *spacing).expect("a grid");
                    assert_eq!(grid.len() as i64, steps);
                    check_grid(&grid, total).expect("a legal grid");
                }
            }
        }
    }

    #[test]
    fn the_course_grid_runs_from_the_last_timestep_to_the_first() {
        let grid = timestep_grid(400, 50, Spacing::Course).expect("a grid");
        assert_eq!((grid[0], grid[49]), (399, 0));
        assert_eq!(grid[1], 390);
    }
}
