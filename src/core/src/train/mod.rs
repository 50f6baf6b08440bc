//! Training: the loop, and what it asks of the program around it.
//!
//! [`Trainer::run`] is the whole run. Batches come from a [`Host`], which also writes the files after each epoch, shows
//! progress and averages gradients over processes; everything that changes weights happens here.

mod flat;
mod noising;
mod optim;
mod queued;
mod rate;
mod scaler;
mod trainer;

use tch::Tensor;

pub use flat::Flat;
pub use optim::State;
pub use queued::Graphs;
pub use rate::{Rate, RateSchedule};
pub use scaler::{LossScaler, MAX_CONSECUTIVE_SKIPS};
pub use trainer::Trainer;

use crate::diffusion::Objective;
use crate::error::Result;
use crate::nn::Precision;

/// How to train. Everything here is the same on every process.
#[derive(Debug, Clone)]
pub struct Options {
    /// The run's end, counted from its very beginning.
    pub epochs: i64,
    pub rate: Rate,
    pub weight_decay: f64,
    /// Largest norm of the gradient; infinity leaves it as it is.
    pub grad_clip: f64,
    pub ema_decay: f64,
    /// Let the decay grow with the number of updates, so that the initial weights are forgotten sooner.
    pub ema_warmup: bool,
    pub precision: Precision,
    /// Of the residual blocks.
    pub dropout: f64,
    pub objective: Objective,
    /// Cap of the signal-to-noise ratio in the loss weights (Hang et al. 2023); None: every timestep weighs the same.
    pub min_snr: Option<f64>,
    /// Batches per update.
    pub accumulate: i64,
    /// Mirror each image left to right with probability 1/2.
    pub flip: bool,
    /// End the run after this many updates.
    pub max_steps: Option<i64>,
    /// Processes that share each batch.
    pub processes: i64,
    /// Which of them this is, from 0.
    pub rank: i64,
    /// Leave losses on the device and read them only to show them: for accelerators, which would else be waited for.
    pub queued: bool,
}

/// How far a run has come: what a checkpoint needs besides weights, averages and random state.
#[derive(Debug, Clone, PartialEq)]
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
    pub scaler: LossScaler,
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

/// One batch: this process' rows of it, and where they lie in the whole.
pub struct Batch {
    /// (rows, C, H, W) in [-1, 1], or grey levels 0..255 as uint8. No rows is legal for a share.
    pub images: Tensor,
    /// Images in the whole batch, over all processes.
    pub total: i64,
    /// The first of this process' rows.
    pub first: i64,
}

/// What is known after an update.
pub struct StepReport<'a> {
    pub position: &'a Position,
    pub loss: f64,
    pub images_per_second: f64,
}

/// What is known after an epoch.
pub struct EpochReport<'a> {
    pub epoch: i64,
    pub loss: f64,
    /// The rate of the epoch's updates (of the last one, during warm-up).
    pub rate: f64,
    pub images_per_second: f64,
    /// Where the next epoch begins.
    pub position: &'a Position,
}

/// The program around the loop. An error from any of these ends the run and comes out of [`Trainer::run`] unchanged.
pub trait Host {
    /// The epoch at `position` begins, or goes on after `position.batch` batches.
    fn begin_epoch(&mut self, position: &Position) -> Result<()>;
    /// The next batch; None when the epoch is over. `fresh` is false for the further batches of one update.
    fn next_batch(&mut self, fresh: bool) -> Result<Option<Batch>>;
    /// An update is done. Here a user may stop the run. True asks for a report of it.
    fn watch(&mut self) -> Result<bool>;
    /// The report that was asked for.
    fn step_done(&mut self, report: &StepReport) -> Result<()>;
    /// An epoch is done: write the files. False ends the run.
    fn end_epoch(&mut self, report: &EpochReport) -> Result<bool>;
    /// Replace `flat` by its sum over all processes. Asked only if there are several.
    fn all_reduce(&mut self, flat: &Tensor) -> Result<()>;
    /// The run ends before its last epoch does. All tensors are as they were at `position`; `within_step` says that
    /// random numbers have been drawn since, for an update that was not made.
    fn stopped(&mut self, position: &Position, within_step: bool) -> Result<()>;
}
