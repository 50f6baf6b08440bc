//! The engine of rust_diffusion: schedules, a UNet denoiser, its training and sampling, on libtorch.
//!
//! This crate has never heard of its host language. What it needs from outside (a denoiser that is not ours, noise,
//! batches, a place to report to) it asks for through traits.

#![deny(unsafe_code)]

pub mod choice;
pub mod data;
pub mod device;
pub mod diffusion;
pub mod ema;
pub mod error;
pub mod flat;
pub mod inverse;
#[allow(unsafe_code)]
mod libtorch;
pub mod nn;
pub mod sampler;
pub mod switches;
pub mod train;

pub use error::{Error, Result};
