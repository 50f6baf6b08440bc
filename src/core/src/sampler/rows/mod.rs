//! One file a sampler: its rows as numbers.

mod ddim;
mod ddpm;
mod dpmpp;
mod euler;
mod heun;
mod invert;
mod straight;
mod unipc;

pub use ddim::ddim;
pub use ddpm::ddpm;
pub use dpmpp::{dpmpp, Order, Solver};
pub use euler::euler;
pub use heun::{heun, heun_with_churn};
pub use invert::ddim_invert;
pub use straight::{flow, FlowSolver};
pub use unipc::unipc;
