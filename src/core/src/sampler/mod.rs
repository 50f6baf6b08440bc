//! Drawing images: a table for each sampler, the one loop that follows it, and where it can be corrected.

mod between;
mod correction;
mod ddim;
mod ddpm;
mod dpmpp;
mod euler;
mod grid;
mod heun;
mod invert;
mod likelihood;
mod path;
mod run;
mod straight;
mod table;
#[cfg(test)]
mod testing;
mod unipc;

pub use between::{between, Known};
pub use correction::{At, Correction, Means};
pub use ddim::ddim;
pub use ddpm::ddpm;
pub use dpmpp::{dpmpp, Order, Solver};
pub use euler::euler;
pub use grid::{check_grid, timestep_grid, Spacing};
pub use heun::{heun, heun_with_churn};
pub use invert::ddim_invert;
pub use likelihood::{flow_up, Divergence};
pub use path::Path;
pub use run::{sample, OnStep, Outside, Reading, Step};
pub use straight::{flow, FlowSolver};
pub use table::{Ask, Row, Said, Table};
pub use unipc::unipc;
