//! Drawing images: a table for each sampler, the one loop that follows it, and where it can be corrected.

mod correction;
mod ddim;
mod ddpm;
mod grid;
mod run;
mod table;
#[cfg(test)]
mod testing;

pub use correction::{At, Correction, Means};
pub use ddim::ddim;
pub use ddpm::ddpm;
pub use grid::{check_grid, timestep_grid, Spacing};
pub use run::{sample, OnStep, Outside, Reading, Step};
pub use table::{Ask, Row, Said, Table};
