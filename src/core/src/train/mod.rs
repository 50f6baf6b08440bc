//! Training: the loop, and what it asks of the program around it.
//!
//! [`Trainer::run`] is the whole run. Batches come from a [`Host`], which also writes the files after each epoch, shows
//! progress and speaks with other processes; everything that changes weights happens here.

mod counters;
mod host;
pub mod noising;
mod optim;
mod queue;
mod rate;
mod run;
mod scaler;
mod settings;
mod update;

pub use host::{Batch, EpochReport, Host, StepReport};
pub use optim::{TrainingTensors, ADAM_BETAS, ADAM_EPS};
pub use queue::Graphs;
pub use rate::RateSchedule;
pub use run::Trainer;
pub use scaler::{LossScaler, MAX_CONSECUTIVE_SKIPS};
pub use settings::{Length, Position, Settings};
