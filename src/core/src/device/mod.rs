//! What an accelerator wants done differently from a CPU.

pub mod capture;

pub use capture::{Capture, Graph};
