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

    /// Whether all of those are timesteps of the schedule.
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
        let row = |a, b| Row { ask: None, a, b, s: None, to: Level::CLEAN, ends_step: true };
        let table = Table { rows: vec![row(vec![(2, 1.0)], vec![(Said::X0(0), 1.0), (Said::Eps(1), 0.5)])] };
        assert_eq!(table.memory(), (3, 2));
        assert_eq!(Table::default().memory(), (1, 1));
    }
}
