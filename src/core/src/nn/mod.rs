//! The denoiser.

pub mod backend;
pub mod blueprint;
pub mod builder;
pub mod differentiable;
pub mod embedding;
pub mod precision;
pub mod predictor;
pub mod presets;
pub mod wiring;

pub use blueprint::Blueprint;
pub use precision::Precision;
