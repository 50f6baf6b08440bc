//! The denoiser.

pub mod aten;
pub mod blueprint;
pub mod embedding;
pub mod model;
pub mod wiring;

pub use blueprint::{Blueprint, UNetConfig};
