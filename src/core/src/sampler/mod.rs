//! Drawing images: a table for each sampler, the one loop that follows it, and where it can be corrected.

mod between;
mod correction;
mod grid;
mod likelihood;
mod path;
mod rows;
mod run;
mod table;
#[cfg(test)]
mod testing;

pub use between::{between, Known};
pub use correction::{At, Correction, Means};
pub use grid::{check_grid, timestep_grid, Spacing};
pub use likelihood::{flow_up, Divergence};
pub use path::Path;
pub use rows::*;
pub use run::{sample, OnStep, Outside, Reading, Step};
pub use table::{Ask, Row, Said, Table};
