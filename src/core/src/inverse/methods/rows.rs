//! Tables of the methods that are no sampler's without a measurement.

use crate::diffusion::schedule::Level;
use crate::error::{ensure, Result};
use crate::sampler::{check_grid, ddim, Ask, Row, Said, Table};

/// x' = sqrt(b) x0 + sqrt(1 - b) (kept eps + fresh z): x0 noised anew, with so much of the old noise and of new noise.
pub fn renoised(alpha_bars: &[f32], grid: &[i64], kept: f64, fresh: f64) -> Result<Table> {
    travelling(alpha_bars, grid, kept, fresh, Travel { length: 1, repeat: 1 })
}

/// How often stretches of a run are repeated (Lugmayr et al. 2022; Wang, Yu and Zhang 2023, section 3.3).
#[derive(Debug, Clone, Copy)]
pub struct Travel {
    /// Steps of a stretch.
    pub length: usize,
    /// How often each is gone through.
    pub repeat: usize,
}

/// The same with each stretch repeated: between two times the image is noised to where the stretch began.
pub fn travelling(alpha_bars: &[f32], grid: &[i64], kept: f64, fresh: f64, travel: Travel) -> Result<Table> {
    check_grid(grid, alpha_bars.len() as i64)?;
    ensure!(travel.length >= 1 && travel.repeat >= 1, Value, "travel_length and travel_repeat must be at least 1");
    let level = |index: usize| grid.get(index).map_or(Level::CLEAN, |k| Level::of_alpha_bar(alpha_bars[*k as usize]));
    let mut rows = vec![];
    for start in (0..grid.len()).step_by(travel.length) {
        let end = (start + travel.length).min(grid.len());
        for again in 0..travel.repeat {
            if again > 0 {
                rows.push(back(level(end), level(start)));
            }
            rows.extend((start..end).map(|index| {
                let ask = Ask { t: grid[index] as f64, level: level(index) };
                down(ask, level(index + 1), kept, fresh)
            }));
        }
    }
    Ok(Table { rows })
}

fn down(ask: Ask, to: Level, kept: f64, fresh: f64) -> Row {
    Row {
        ask: Some(ask),
        a: vec![],
        b: vec![(Said::X0(0), to.signal), (Said::Eps(0), to.spread * kept)],
        s: (to.spread > 0.0 && fresh > 0.0).then_some(to.spread * fresh),
        to,
        ends_step: true,
    }
}

/// Up from one level of noise to another.
fn back(from: Level, to: Level) -> Row {
    let kept = to.signal / from.signal;
    let added = (to.spread.powi(2) - (kept * from.spread).powi(2)).max(0.0).sqrt();
    Row { ask: None, a: vec![(0, kept)], b: vec![], s: Some(added), to, ends_step: false }
}

/// DDIM without noise, from pair to pair of the grid: the last timestep is reached and not asked about.
pub fn course_pairs(alpha_bars: &[f32], grid: &[i64]) -> Result<Table> {
    let mut table = ddim(alpha_bars, grid, 0.0)?;
    ensure!(grid.len() >= 2, Value, "style=\"course\" needs at least two timesteps, got {grid:?}");
    table.rows.pop();
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_are_repeated_and_levels_kept() {
        let bars = [0.9, 0.7, 0.5, 0.3, 0.1];
        let travel = Travel { length: 2, repeat: 3 };
        let table = travelling(&bars, &[4, 3, 2, 1, 0], 0.6, 0.8, travel).expect("a table");
        let times: Vec<f64> = table.times();
        assert_eq!(times, [4., 3., 4., 3., 4., 3., 2., 1., 2., 1., 2., 1., 0., 0., 0.]);
        let mut level = Level::of_alpha_bar(0.1);
        for row in &table.rows {
            if let Some(ask) = row.ask {
                assert!((ask.level.spread - level.spread).abs() < 1e-6);
            } else {
                let spread = (row.a[0].1 * level.spread).hypot(row.s.unwrap_or(0.0));
                assert!(
                    (spread - row.to.spread).abs() < 1e-6 && (row.a[0].1 * level.signal - row.to.signal).abs() < 1e-6
                );
            }
            level = row.to;
        }
        assert!(table.ends_clean());
    }
}
