//! Euler's method on the probability flow, and its ancestral form (Karras et al. 2022; k-diffusion by K. Crowson).

use crate::diffusion::schedule::Level;
use crate::sampler::path::{towards_x0, Path};
use crate::sampler::table::{Row, Said, Table};

/// One network call a step, straight on towards x0_hat. Ancestral: further down than the next level, and back up to it
/// with fresh noise.
pub fn euler(path: &Path, ancestral: bool) -> Table {
    let row = |index: usize| {
        let (from, to) = (path.level(index), path.level(index + 1));
        let up = if ancestral { noise(from, to) } else { 0.0 };
        let aim = Level { signal: to.signal, spread: (to.spread.powi(2) - up.powi(2)).max(0.0).sqrt() };
        let (x, x0) = towards_x0(from, aim);
        Row {
            ask: Some(path.asks[index]),
            a: vec![(0, x)],
            b: vec![(Said::X0(0), x0)],
            s: (ancestral && to.spread > 0.0).then_some(up),
            ..Row::to(to)
        }
    };
    Table { rows: (0..path.steps()).map(row).collect() }
}

/// As much fresh noise as ancestral sampling (DDPM with the smaller variance) has on the way from one level to another.
fn noise(from: Level, to: Level) -> f64 {
    let (high, low) = (from.sigma().powi(2), to.sigma().powi(2));
    to.signal * (low * (high - low) / high).max(0.0).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::ddim;
    use crate::sampler::table::checks::{error_on_a_gaussian, keeps_its_levels, order};
    use crate::sampler::testing::schedule;

    #[test]
    fn rows_lead_from_level_to_level() {
        let alpha_bars = schedule(400).alpha_bars;
        let path = Path::down(&alpha_bars, &[399, 250, 100, 30, 0]).expect("a path");
        for ancestral in [false, true] {
            keeps_its_levels(&euler(&path, ancestral), path.level(0), 1e-12);
        }
        let path = Path::straight(&[1.0, 0.7, 0.3, 0.01], 1000.0);
        keeps_its_levels(&euler(&path, false), path.level(0), 1e-12);
    }

    #[test]
    fn its_error_falls_in_proportion_to_the_step() {
        let found =
            order(&schedule(4000).alpha_bars, |bars, grid| euler(&Path::down(bars, grid).expect("a path"), false));
        assert!((found - 1.0).abs() < 0.1, "{found}");
    }

    #[test]
    fn it_is_ddim_without_noise_for_an_exact_denoiser() {
        let alpha_bars = schedule(400).alpha_bars;
        let grid = [390, 250, 100, 30, 0];
        let path = Path::down(&alpha_bars, &grid).expect("a path");
        let ours = error_on_a_gaussian(&euler(&path, false), path.level(0));
        let theirs = error_on_a_gaussian(&ddim(&alpha_bars, &grid, 0.0).expect("a table"), path.level(0));
        assert!((ours - theirs).abs() < 1e-6);
    }
}
