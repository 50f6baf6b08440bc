//! The learning rate over a run.

use crate::choice::Choice;

/// What shape the rate has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RateSchedule {
    /// rate / 2 (1 + cos(pi epoch / epochs)), one value per epoch (Loshchilov and Hutter 2017, equation 5).
    #[default]
    Cosine,
    Constant,
    /// The cosine, times a straight line from 0 to 1 over the first updates.
    WarmupCosine,
}

impl Choice for RateSchedule {
    const WHAT: &'static str = "lr_schedule";
    const ALL: &'static [(&'static str, Self)] =
        &[("cosine", Self::Cosine), ("constant", Self::Constant), ("warmup_cosine", Self::WarmupCosine)];
}

#[derive(Debug, Clone)]
pub struct Rate {
    pub schedule: RateSchedule,
    pub peak: f64,
    /// The run's length in epochs, at which the cosine reaches 0.
    pub epochs: i64,
    /// Length of the warm-up in updates.
    pub warmup_steps: i64,
}

impl Rate {
    /// The rate of an update, given the epoch it is in and the number of updates before it.
    pub fn at(&self, epoch: i64, updates: i64) -> f64 {
        let turn = std::f64::consts::PI * epoch as f64 / self.epochs.max(1) as f64;
        let cosine = self.peak / 2.0 * (1.0 + turn.cos());
        match self.schedule {
            RateSchedule::Cosine => cosine,
            RateSchedule::Constant => self.peak,
            RateSchedule::WarmupCosine => cosine * ((updates + 1) as f64 / self.warmup_steps.max(1) as f64).min(1.0),
        }
    }

    /// Whether the rate depends on how many updates came before.
    pub fn rises(&self, updates: i64) -> bool {
        self.schedule == RateSchedule::WarmupCosine && updates < self.warmup_steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cosine_falls_from_the_peak_and_the_warm_up_rises_to_it() {
        let mut rate = Rate { schedule: RateSchedule::Cosine, peak: 2.0, epochs: 4, warmup_steps: 10 };
        assert_eq!(rate.at(0, 0), 2.0);
        assert!((rate.at(2, 99) - 1.0).abs() < 1e-12 && rate.at(4, 99) < 1e-12);
        rate.schedule = RateSchedule::WarmupCosine;
        assert!((rate.at(0, 0) - 0.2).abs() < 1e-12);
        assert_eq!(rate.at(0, 9), 2.0);
        assert!(rate.rises(9) && !rate.rises(10));
        rate.schedule = RateSchedule::Constant;
        assert_eq!(rate.at(3, 0), 2.0);
    }
}
