//! Inverse problems: what imaging systems do to images, and how to undo it.

pub mod blur;
pub mod cg;
pub mod circulant;
pub mod compose;
pub mod constant;
pub mod ct;
pub mod downscale;
pub mod fbp;
pub mod gradient;
pub mod inpaint;
pub mod matrix;
pub mod metrics;
pub mod operator;
pub mod solve;
pub mod spectrum;
pub mod tv;

use std::sync::Arc;

pub use operator::{LinearOperator, Shape};

/// An operator that others hold too.
pub type Shared = Arc<dyn LinearOperator>;
