//! A sampler as a table of numbers, known before the first step.
//!
//! Each row makes the next image of earlier ones and of what the network said about them:
//!
//! x' = sum_i a_i x_i + sum_j b_j d_j + s z
//!
//! x_0 is the latest image and x_1 the one before; d_j is x0_hat or eps_hat of an answer, the latest at j = 0; z is
//! standard normal noise.

use crate::diffusion::schedule::Level;

/// A sampler's rows, from the noise at its beginning on.
#[derive(Debug, Clone, Default)]
pub struct Table {
    pub rows: Vec<Row>,
}

#[derive(Debug, Clone)]
pub struct Row {
    /// The network is asked about x_0 before the sum is made; None: earlier answers are enough.
    pub ask: Option<Ask>,
    /// Weights of images, by their age.
    pub a: Vec<(usize, f64)>,
    /// Weights of what the network said.
    pub b: Vec<(Said, f64)>,
    /// Weight of noise; None: none is drawn. Some(0.0) draws, because the order of draws is part of a sampler.
    pub s: Option<f64>,
    /// The level of noise of x'.
    pub to: Level,
    /// Whether x' ends a step. If not, it only serves the rows that follow: a predictor, a corrector, added noise.
    pub ends_step: bool,
}

impl Row {
    /// An empty row that ends a step at `to`.
    pub fn to(to: Level) -> Self {
        Self { ask: None, a: vec![], b: vec![], s: None, to, ends_step: true }
    }
}

/// A question to the network.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// The time it is shown; not an integer between the timesteps of a schedule.
    pub t: f64,
    /// The level of noise at which its answer is read.
    pub level: Level,
}

/// One half of an answer, by its age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    X0(usize),
    Eps(usize),
}

impl Said {
    pub fn age(self) -> usize {
        match self {
            Self::X0(age) | Self::Eps(age) => age,
        }
    }
}

impl Table {
    /// Steps as a user counts them.
    pub fn steps(&self) -> usize {
        self.rows.iter().filter(|row| row.ends_step).count()
    }

    /// The times at which the network is asked, in order: its number of calls.
    pub fn times(&self) -> Vec<f64> {
        self.rows.iter().filter_map(|row| row.ask).map(|ask| ask.t).collect()
    }

    /// What the network is taken to be shown on the way to clean images, in order: (timestep, alpha_bar), without times
    /// between timesteps. The way from images to noise reads an answer at the level before, so it has none to tell.
    pub fn questions(&self) -> Vec<(f64, f64)> {
        if !self.ends_clean() {
            return vec![];
        }
        let asked = self.rows.iter().filter_map(|row| row.ask).filter(|ask| ask.t.fract() == 0.0);
        asked.map(|Ask { t, level }| (t, level.signal.powi(2))).collect()
    }

    /// Whether the network is asked at timesteps of the schedule only.
    pub fn on_timesteps(&self) -> bool {
        self.times().iter().all(|t| t.fract() == 0.0)
    }

    /// How many images and how many answers a row looks back on.
    pub fn memory(&self) -> (usize, usize) {
        let images = self.rows.iter().flat_map(|row| &row.a).map(|(age, _)| age + 1);
        let answers = self.rows.iter().flat_map(|row| &row.b).map(|(said, _)| said.age() + 1);
        (images.max().unwrap_or(1), answers.max().unwrap_or(1))
    }

    /// Whether what comes out is a clean image.
    pub fn ends_clean(&self) -> bool {
        self.rows.last().is_some_and(|row| row.to.spread == 0.0)
    }
}

#[cfg(test)]
pub(crate) mod checks {
    use std::collections::VecDeque;

    use super::*;

    /// Along the table in float64, with one number for an image and a denoiser of it: where it arrives, at which level.
    pub fn follow(table: &Table, x_t: f64, mut x0_hat: impl FnMut(f64, Ask) -> f64) -> (f64, Level) {
        let (mut images, mut answers) = (VecDeque::from([x_t]), VecDeque::new());
        let mut level = Level::CLEAN;
        for row in &table.rows {
            if let Some(ask) = row.ask {
                let x0 = x0_hat(images[0], ask);
                answers.push_front((x0, (images[0] - ask.level.signal * x0) / ask.level.spread));
            }
            assert!(row.s.is_none_or(|s| s == 0.0), "a path with noise has no end that is known");
            let images_part: f64 = row.a.iter().map(|(age, weight)| weight * images[*age]).sum();
            let said_part = row.b.iter().map(|(said, weight)| match said {
                Said::X0(age) => weight * answers[*age].0,
                Said::Eps(age) => weight * answers[*age].1,
            });
            images.push_front(images_part + said_part.sum::<f64>());
            level = row.to;
        }
        (images[0], level)
    }

    /// Data from N(0, 0.25) have an exact denoiser and an exact flow. The error of a sampler's end against it.
    pub fn error_on_a_gaussian(table: &Table, start: Level) -> f64 {
        let variance = |level: Level| 0.25 * level.signal.powi(2) + level.spread.powi(2);
        let (x, level) =
            follow(table, variance(start).sqrt(), |x, ask| x * ask.level.signal * 0.25 / variance(ask.level));
        (x - variance(level).sqrt()).abs()
    }

    /// The order at which that error falls from `steps` to twice as many; the last step, to the clean image, is left out.
    pub fn order(alpha_bars: &[f32], make: impl Fn(&[f32], &[i64]) -> Table) -> f64 {
        let error = |steps: i64| {
            let (first, last) = (alpha_bars.len() as i64 * 9 / 10, alpha_bars.len() as i64 / 10);
            let grid: Vec<i64> = (0..=steps).map(|i| first - i * (first - last) / steps).collect();
            let mut table = make(alpha_bars, &grid);
            while table.rows.last().is_some_and(|row| row.to == Level::CLEAN) {
                table.rows.pop();
            }
            error_on_a_gaussian(&table, Level::of_alpha_bar(alpha_bars[first as usize]))
        };
        (error(40) / error(80)).log2()
    }

    /// What every table must satisfy: if the network is right about an image x0 and its noise, each row gives x0 with
    /// the signal and the noise that its level says. `start` is the level of x_T.
    pub fn keeps_its_levels(table: &Table, start: Level, tolerance: f64) {
        let mut images = VecDeque::from([start]);
        for (index, row) in table.rows.iter().enumerate() {
            if let Some(ask) = row.ask {
                let here = images[0];
                let near = (here.signal - ask.level.signal).abs() + (here.spread - ask.level.spread).abs();
                assert!(near <= 2.0 * tolerance, "row {index} is read at {:?}, the image is at {here:?}", ask.level);
            }
            let (mut signal, mut spread) = (0.0, 0.0);
            for (age, weight) in &row.a {
                signal += weight * images[*age].signal;
                spread += weight * images[*age].spread;
            }
            for (said, weight) in &row.b {
                match said {
                    Said::X0(_) => signal += weight,
                    Said::Eps(_) => spread += weight,
                }
            }
            let spread = spread.hypot(row.s.unwrap_or(0.0));
            let error = (signal - row.to.signal).abs().max((spread - row.to.spread).abs());
            assert!(error <= tolerance, "row {index} leads to ({signal}, {spread}), not to {:?}", row.to);
            images.push_front(row.to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_reaches_back_to_the_oldest_that_a_row_uses() {
        let row = |a, b| Row { a, b, ..Row::to(Level::CLEAN) };
        let table = Table { rows: vec![row(vec![(2, 1.0)], vec![(Said::X0(0), 1.0), (Said::Eps(1), 0.5)])] };
        assert_eq!(table.memory(), (3, 2));
        assert_eq!(Table::default().memory(), (1, 1));
    }
}
