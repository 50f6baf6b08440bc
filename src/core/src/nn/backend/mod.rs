//! Ways of computing a network: libtorch's operations for every device, and the engine of this crate for the CPU.

pub mod aten;
mod clock;
pub mod cpu;
