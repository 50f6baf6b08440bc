//! The learning rate over a run, and the decay of the averaged weights.

use super::{Position, Settings};
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
    /// The same over updates instead of epochs, down to 0 after the last one.
    SmoothCosine,
}

impl Choice for RateSchedule {
    const WHAT: &'static str = "lr_schedule";
    const ALL: &'static [(&'static str, Self)] = &[
        ("cosine", Self::Cosine),
        ("constant", Self::Constant),
        ("warmup_cosine", Self::WarmupCosine),
        ("smooth_cosine", Self::SmoothCosine),
    ];
}

impl Settings {
    /// The rate of an update, given the epoch it is in and the number of updates before it.
    pub fn rate_at(&self, epoch: i64, updates: i64) -> f64 {
        let falling = |done: i64, all: i64| {
            if self.open {
                return self.learning_rate;
            }
            let turn = std::f64::consts::PI * done as f64 / all.max(1) as f64;
            self.learning_rate / 2.0 * (1.0 + turn.cos())
        };
        let rise = ((updates + 1) as f64 / self.warmup_steps.max(1) as f64).min(1.0);
        match self.lr_schedule {
            RateSchedule::Cosine => falling(epoch, self.epochs),
            RateSchedule::Constant => self.learning_rate,
            RateSchedule::WarmupCosine => falling(epoch, self.epochs) * rise,
            RateSchedule::SmoothCosine => {
                rise * self.updates.map_or(self.learning_rate, |all| falling(updates.min(all), all))
            }
        }
    }

    /// Whether the rate depends on how many updates came before.
    pub fn rate_moves(&self, updates: i64) -> bool {
        match self.lr_schedule {
            RateSchedule::WarmupCosine => updates < self.warmup_steps,
            RateSchedule::SmoothCosine => true,
            RateSchedule::Cosine | RateSchedule::Constant => false,
        }
    }

    /// The decay of the next average. During warm-up, after n of them, it is min(ema_decay, (1 + n) / (10 + n)), so that
    /// early averages forget the initial weights fast.
    pub fn decay_at(&self, position: &Position) -> f64 {
        if !self.ema_warmup {
            return self.ema_decay;
        }
        let n = position.averaged as f64;
        self.ema_decay.min((1.0 + n) / (10.0 + n))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Length;
    use super::*;

    #[test]
    fn the_cosine_falls_from_the_peak_and_the_warm_up_rises_to_it() {
        let mut settings = Settings { epochs: 4, learning_rate: 2.0, warmup_steps: 10, ..Settings::plain() };
        assert_eq!(settings.rate_at(0, 0), 2.0);
        assert!((settings.rate_at(2, 99) - 1.0).abs() < 1e-12 && settings.rate_at(4, 99) < 1e-12);
        settings.lr_schedule = RateSchedule::WarmupCosine;
        assert!((settings.rate_at(0, 0) - 0.2).abs() < 1e-12);
        assert_eq!(settings.rate_at(0, 9), 2.0);
        assert!(settings.rate_moves(9) && !settings.rate_moves(10));
        settings.lr_schedule = RateSchedule::Constant;
        assert_eq!(settings.rate_at(3, 0), 2.0);
    }

    #[test]
    fn the_smooth_cosine_falls_with_every_update_once_the_length_is_known() {
        let schedule = RateSchedule::SmoothCosine;
        let mut settings = Settings { lr_schedule: schedule, learning_rate: 2.0, open: true, ..Settings::plain() };
        assert_eq!(settings.rate_at(0, 50), 2.0);
        settings.close(Length { epochs: 4, updates: 100 });
        assert!((settings.rate_at(3, 50) - 1.0).abs() < 1e-12 && settings.rate_at(0, 100) < 1e-12);
        assert_eq!((settings.epochs, settings.max_steps, settings.open), (4, Some(100), false));
    }

    #[test]
    fn warm_up_ends_at_the_decay() {
        let settings = Settings { ema_decay: 0.9, ema_warmup: true, ..Settings::plain() };
        let after = |averaged| settings.decay_at(&Position { averaged, ..Position::default() });
        assert!((after(0) - 0.1).abs() < 1e-12);
        assert_eq!(after(1_000_000), 0.9);
    }
}
