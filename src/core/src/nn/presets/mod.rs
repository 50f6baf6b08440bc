//! Networks by name: each preset turns a configuration into a blueprint.

mod course;
mod diffusers;

pub use course::UNetConfig;
pub use diffusers::UNet2DConfig;

use crate::error::{ensure, Result};

/// More channels than this in one layer is a mistyped argument.
const MAX_CHANNELS: i64 = 65_536;
const MAX_LEVELS: usize = 16;

/// A number of channels, heads, groups or blocks.
fn check_count(name: &str, value: i64) -> Result<()> {
    ensure!((1..=MAX_CHANNELS).contains(&value), Value, "{name} must be between 1 and {MAX_CHANNELS}, got {value}");
    Ok(())
}

/// One number per level.
fn check_levels(name: &str, values: &[i64]) -> Result<()> {
    let count = values.len();
    ensure!((1..=MAX_LEVELS).contains(&count), Value, "{name} must have 1 to {MAX_LEVELS} entries, got {values:?}");
    Ok(())
}

fn check_dropout(p: f64) -> Result<()> {
    ensure!((0.0..=1.0).contains(&p), Value, "dropout must be a probability between 0 and 1, got {p}");
    Ok(())
}
