//! Heun's second-order method with churn, Karras et al. 2022, algorithms 1 and 2.

use crate::diffusion::schedule::Level;
use crate::sampler::path::{towards_x0, Path};
use crate::sampler::table::{Ask, Row, Said, Table};

/// Noise is never raised by more than this factor less 1 in one step (Karras et al. 2022, algorithm 2).
const MOST_CHURN: f64 = std::f64::consts::SQRT_2 - 1.0;

/// Two network calls a step but the last, at its beginning and where Euler's method would end it.
pub fn heun(path: &Path) -> Table {
    let mut rows = Vec::with_capacity(2 * path.steps());
    for index in 0..path.steps() {
        rows.extend(step(path.asks[index], path.place(index), path, index + 1));
    }
    Table { rows }
}

/// The same with fresh noise before each step: sigma rises by the factor 1 + churn / steps, to the nearest of the levels that the
/// network knows.
pub fn heun_with_churn(path: &Path, alpha_bars: &[f32], churn: f64) -> Table {
    let gamma = (churn / path.steps() as f64).min(MOST_CHURN);
    let mut rows = Vec::with_capacity(3 * path.steps());
    for index in 0..path.steps() {
        let here = path.asks[index];
        let raised = nearest(alpha_bars, here.level.sigma() * (1.0 + gamma));
        if raised.level.sigma() <= here.level.sigma() {
            rows.extend(step(here, path.place(index), path, index + 1));
            continue;
        }
        rows.push(noisier(here.level, raised.level));
        rows.extend(step(raised, (raised.level.signal, raised.level.sigma()), path, index + 1));
    }
    Table { rows }
}

/// From where `ask` is asked to the path's level `next`.
fn step(ask: Ask, (scale, at): (f64, f64), path: &Path, next: usize) -> Vec<Row> {
    let to = path.level(next);
    let (x, x0) = towards_x0(ask.level, to);
    let euler = Row { ask: Some(ask), a: vec![(0, x)], b: vec![(Said::X0(0), x0)], ..Row::to(to) };
    let Some(again) = path.asks.get(next) else { return vec![euler] };
    // the mean of the slopes (point - x0_hat) / place at both ends
    let (next_scale, next_at) = path.place(next);
    let half = (next_at - at) / 2.0;
    let corrected = Row {
        ask: Some(*again),
        a: vec![(0, half / next_at), (1, next_scale / scale * (1.0 + half / at))],
        b: vec![(Said::X0(0), -next_scale * half / next_at), (Said::X0(1), -next_scale * half / at)],
        ..Row::to(to)
    };
    vec![Row { ends_step: false, ..euler }, corrected]
}

/// Fresh noise from one level up to another; no network.
fn noisier(from: Level, to: Level) -> Row {
    let kept = to.signal / from.signal;
    let s = (to.spread.powi(2) - (kept * from.spread).powi(2)).max(0.0).sqrt();
    Row { a: vec![(0, kept)], s: Some(s), ends_step: false, ..Row::to(to) }
}

/// The timestep whose sigma is nearest.
fn nearest(alpha_bars: &[f32], sigma: f64) -> Ask {
    let asks = alpha_bars.iter().enumerate().map(|(k, bar)| Ask { t: k as f64, level: Level::of_alpha_bar(*bar) });
    let distance = |ask: &Ask| (ask.level.sigma() - sigma).abs();
    asks.min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(Ask { t: 0.0, level: Level::CLEAN })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::table::checks::{keeps_its_levels, order};
    use crate::sampler::testing::schedule;

    #[test]
    fn rows_lead_from_level_to_level() {
        let alpha_bars = schedule(400).alpha_bars;
        let path = Path::down(&alpha_bars, &[399, 250, 100, 30, 0]).expect("a path");
        keeps_its_levels(&heun(&path), path.level(0), 1e-10);
        for churn in [0.0, 1.0, 40.0] {
            keeps_its_levels(&heun_with_churn(&path, &alpha_bars, churn), path.level(0), 1e-10);
        }
        let path = Path::straight(&[1.0, 0.7, 0.3, 0.01], 1000.0);
        keeps_its_levels(&heun(&path), path.level(0), 1e-12);
    }

    #[test]
    fn its_error_falls_with_the_square_of_the_step() {
        let found = order(&schedule(4000).alpha_bars, |bars, grid| heun(&Path::down(bars, grid).expect("a path")));
        assert!((found - 2.0).abs() < 0.2, "{found}");
    }

    #[test]
    fn churn_asks_at_the_levels_that_the_network_knows() {
        let alpha_bars = schedule(400).alpha_bars;
        let path = Path::down(&alpha_bars, &[399, 250, 100, 30, 0]).expect("a path");
        let table = heun_with_churn(&path, &alpha_bars, 2.0);
        assert!(table.on_timesteps());
        assert_eq!((table.steps(), table.times().len()), (5, 9));
        assert!(table.rows.iter().filter(|row| row.s.is_some()).count() >= 3);
        assert!(heun_with_churn(&path, &alpha_bars, 0.0).rows.iter().all(|row| row.s.is_none()));
    }
}
