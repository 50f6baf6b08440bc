//! What a run is told, and how far it has come. Hosts hand both over as plain data, by these names; Python checks the
//! ranges.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::noising::TimeSampling;
use super::{LossScaler, RateSchedule};
use crate::choice::Choice;
use crate::diffusion::Objective;
use crate::nn::Precision;

/// How to train. Everything here but `rank` is the same on every process.
#[derive(Debug, Clone, Deserialize)]
pub struct Settings {
    /// The run's end, counted from its very beginning.
    pub epochs: i64,
    /// The largest.
    pub learning_rate: f64,
    #[serde(deserialize_with = "by_name")]
    pub lr_schedule: RateSchedule,
    /// Length of the warm-up in updates.
    pub warmup_steps: i64,
    pub weight_decay: f64,
    /// Largest norm of the gradient; infinity leaves it as it is.
    pub grad_clip: f64,
    pub ema_decay: f64,
    /// Let the decay grow with the number of updates, so that the initial weights are forgotten sooner.
    pub ema_warmup: bool,
    #[serde(deserialize_with = "by_name")]
    pub precision: Precision,
    /// Of the residual blocks; of a network that is not ours, 0 if it draws no random numbers.
    pub dropout: f64,
    #[serde(deserialize_with = "by_name")]
    pub objective: Objective,
    /// How times are drawn for an objective that has no timesteps.
    #[serde(deserialize_with = "by_name")]
    pub time_sampling: TimeSampling,
    /// Cap of the signal-to-noise ratio in the loss weights (Hang et al. 2023); None: every timestep weighs the same.
    pub min_snr_gamma: Option<f64>,
    /// Batches per update.
    pub accumulate: i64,
    /// Mirror each image left to right with probability 1/2.
    pub horizontal_flip: bool,
    /// End the run after this many updates.
    pub max_steps: Option<i64>,
    /// All updates from the very beginning to the end, where a rate follows them; None while nobody knows.
    pub updates: Option<i64>,
    /// The host settles epochs and updates after the first few, see [`super::Host::settle`]; until then the rate is the
    /// largest.
    pub open: bool,
    /// Processes that share each batch.
    pub processes: i64,
    /// Which of them this is, from 0.
    pub rank: i64,
    /// Leave losses on the device and read them only to show them: for accelerators, which would otherwise be waited for.
    pub queued: bool,
}

/// How long a run is: its end, counted from its very beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Length {
    pub epochs: i64,
    pub updates: i64,
}

impl Settings {
    /// Whether the last update is the end of a plan, at which an epoch ends too, and not a stop on the way.
    pub fn ends_planned(&self) -> bool {
        self.updates.is_some() && self.updates == self.max_steps
    }

    /// The length of a run that was open until now.
    pub fn close(&mut self, length: Length) {
        (self.epochs, self.open) = (length.epochs, false);
        (self.max_steps, self.updates) = (Some(length.updates), Some(length.updates));
    }
}

fn by_name<'de, D: Deserializer<'de>, C: Choice>(name: D) -> Result<C, D::Error> {
    C::parse(&String::deserialize(name)?).map_err(D::Error::custom)
}

/// How far a run has come: what a checkpoint needs besides weights, averages and random state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Position {
    /// The epoch that is under way, from 0.
    pub epoch: i64,
    /// Batches of it that are done.
    pub batch: i64,
    /// Sum and number of the losses that make its mean.
    pub loss_sum: f64,
    pub losses: i64,
    /// Changes of the weights since the very beginning.
    pub updates: i64,
    /// Updates left out because the gradient was not finite (float16 only).
    pub skipped: i64,
    /// Moves of the averaged weights, and the share that they still hold of the weights they began with.
    pub averaged: i64,
    pub initial_share: f64,
    #[serde(flatten)]
    pub scaler: LossScaler,
}

impl Position {
    /// The mean loss of the epoch so far; 0 before the first.
    pub fn mean_loss(&self) -> f64 {
        self.loss_sum / self.losses.max(1) as f64
    }
}

impl Default for Position {
    fn default() -> Self {
        Self {
            epoch: 0,
            batch: 0,
            loss_sum: 0.0,
            losses: 0,
            updates: 0,
            skipped: 0,
            averaged: 0,
            initial_share: 1.0,
            scaler: LossScaler::default(),
        }
    }
}

#[cfg(test)]
impl Settings {
    /// Of a run with nothing special.
    pub fn plain() -> Self {
        Self {
            epochs: 1,
            learning_rate: 1e-3,
            lr_schedule: RateSchedule::Cosine,
            warmup_steps: 0,
            weight_decay: 0.0,
            grad_clip: f64::INFINITY,
            ema_decay: 0.9,
            ema_warmup: false,
            precision: Precision::Fp32,
            dropout: 0.0,
            objective: Objective::Eps,
            time_sampling: TimeSampling::Uniform,
            min_snr_gamma: None,
            accumulate: 1,
            horizontal_flip: false,
            max_steps: None,
            updates: None,
            open: false,
            processes: 1,
            rank: 0,
            queued: false,
        }
    }
}
