//! The denoiser.

pub mod aten;
pub mod blueprint;
pub mod embedding;
pub mod engine;
pub mod model;
pub mod wiring;

pub use blueprint::{Blueprint, UNetConfig};
