//! The levels of noise that a sampler visits, and the straight lines between them.

use super::grid::check_grid;
use super::table::Ask;
use crate::diffusion::schedule::Level;
use crate::error::{ensure, Result};

/// Levels in the order of the visits, and the one at which the sampler ends.
#[derive(Debug, Clone)]
pub struct Path {
    pub asks: Vec<Ask>,
    end: Level,
    line: Line,
}

/// In which coordinates the path between two images of one x0 and one eps is a straight line.
#[derive(Debug, Clone, Copy)]
pub enum Line {
    /// x / signal = x0 + sigma eps, over sigma (Karras et al. 2022).
    Sigma,
    /// x = x0 + s (eps - x0), over s (Liu et al. 2023).
    Share,
}

impl Path {
    /// Down a schedule's timesteps and on to the clean image. A timestep without noise is the clean image.
    pub fn down(alpha_bars: &[f32], grid: &[i64]) -> Result<Self> {
        check_grid(grid, alpha_bars.len() as i64)?;
        let ask = |k: &i64| Ask { t: *k as f64, level: Level::of_alpha_bar(alpha_bars[*k as usize]) };
        let asks: Vec<Ask> = grid.iter().map(ask).take_while(|ask| ask.level.spread > 0.0).collect();
        ensure!(
            !asks.is_empty(),
            Value,
            "alpha_bars is 1 at every timestep that is visited: there is no noise to take"
        );
        let falls = |pair: &[Ask]| pair[0].level.sigma() > pair[1].level.sigma();
        ensure!(
            asks.windows(2).all(falls),
            Value,
            "alpha_bars must fall from each timestep that is visited to the next higher one"
        );
        Ok(Self { asks, end: Level::CLEAN, line: Line::Sigma })
    }

    /// Of straight paths from noise to image, through the shares of noise `shares`, decreasing.
    pub fn straight(shares: &[f64], time: f64) -> Self {
        let ask = |s: &f64| Ask { t: time * s, level: Level { signal: 1.0 - s, spread: *s } };
        Self { asks: shares.iter().map(ask).collect(), end: Level::CLEAN, line: Line::Share }
    }

    /// The same levels upwards, from the lowest to the highest.
    pub fn upwards(mut self) -> Self {
        self.asks.reverse();
        if let Some(last) = self.asks.last() {
            self.end = last.level;
        }
        self
    }

    pub fn steps(&self) -> usize {
        self.asks.len()
    }

    /// The level after `index` steps.
    pub fn level(&self, index: usize) -> Level {
        self.asks.get(index).map_or(self.end, |ask| ask.level)
    }

    /// (factor of the image, place on the line) there: the image is the factor times a point of the line.
    pub fn place(&self, index: usize) -> (f64, f64) {
        let level = self.level(index);
        match self.line {
            Line::Sigma => (level.signal, level.sigma()),
            Line::Share => (1.0, level.spread),
        }
    }
}

/// From one level to another along the line that x_t and x0_hat span: the weights of the two.
pub fn towards_x0(from: Level, to: Level) -> (f64, f64) {
    let kept = to.spread / from.spread;
    (kept, to.signal - kept * from.signal)
}
