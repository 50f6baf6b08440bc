//! The mathematics of diffusion without a network, and the two seams it is drawn through: the denoiser and the noise.

pub mod denoiser;
pub mod noise;
pub mod objective;
pub mod process;
pub mod question;
pub mod schedule;

pub use denoiser::{Denoiser, Vjp};
pub use noise::{Noise, TorchNoise};
pub use objective::Objective;
pub use question::Question;
pub use schedule::Schedule;
