//! The program around the loop.

use tch::Tensor;

use super::{Length, Position};
use crate::error::{Error, Result};

/// One batch: this process' rows of it, and where they lie in the whole.
pub struct Batch {
    /// (rows, C, H, W) in [-1, 1], or grey levels 0..255 as uint8. No rows is legal for a share.
    pub images: Tensor,
    /// Images in the whole batch, over all processes.
    pub total: i64,
    /// The first of this process' rows.
    pub first: i64,
}

/// What an update is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Gathered {
    pub batches: i64,
    pub images: i64,
    /// Size of the first batch, the unit of the gradients while they are summed.
    pub reference: i64,
}

impl Gathered {
    /// What turns the sum of gradients into that of the mean over all images.
    pub fn mean(&self) -> f64 {
        self.reference as f64 / self.images as f64
    }
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

/// Gives batches and hears how the run goes. An error from any of these ends the run and comes out of
/// [`super::Trainer::run`] unchanged.
pub trait Host {
    /// The epoch at `position` begins, or goes on after `position.batch` batches.
    fn begin_epoch(&mut self, position: &Position) -> Result<()>;
    /// The next batch; None when the epoch is over. `fresh` is false for the further batches of one update.
    fn next_batch(&mut self, fresh: bool) -> Result<Option<Batch>>;
    /// An update is done. Here a user may stop the run. True asks for a report of it.
    fn watch(&mut self) -> Result<bool>;
    /// The report that was asked for.
    fn step_done(&mut self, report: &StepReport) -> Result<()>;
    /// How long the run is to be, once the host can tell. Asked after each update while that is open.
    fn settle(&mut self, position: &Position) -> Result<Option<Length>>;
    /// An epoch is done: write the files. False ends the run.
    fn end_epoch(&mut self, report: &EpochReport) -> Result<bool>;
    /// Replace `flat` by its sum over all processes. Asked only if there are several.
    fn all_reduce(&mut self, flat: &Tensor) -> Result<()>;
    /// Tell the other processes whether this one's part `failed`, and hear of theirs: an error on all of them if it is one
    /// on any, so that none waits for gradients that never come. Asked only if there are several.
    fn agree(&mut self, failed: Option<&Error>) -> Result<()>;
    /// The run ends before its last epoch does. All tensors are as they were at `position`; `within_step` says that
    /// random numbers have been drawn since, for an update that was not made.
    fn stopped(&mut self, position: &Position, within_step: bool) -> Result<()>;
}
