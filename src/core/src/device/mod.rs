//! What an accelerator wants done differently from a CPU.

pub mod capture;
pub mod captured;

pub use capture::{Capture, Graph};
pub use captured::Captured;
