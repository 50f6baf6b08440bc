//! Inverse problems: what imaging systems do to images, and how to undo it.

pub mod denoising;
pub mod fbp;
pub mod local;
pub mod methods;
pub mod metrics;
pub mod operator;
pub mod operators;
pub mod solve;
pub mod tv;

use std::sync::Arc;

pub use operator::{LinearOperator, Shape};

/// An operator that others hold too.
pub type Shared = Arc<dyn LinearOperator>;
