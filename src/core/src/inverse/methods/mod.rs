//! Restoration with a denoiser for a prior: each method is a table of rows and a correction of what the network says.

mod course;
mod daps;
mod ddnm;
mod diffpir;
mod dps;
mod mmps;
mod pigdm;
mod problem;
mod rows;
mod spread;

use crate::error::Result;
use crate::sampler::Correction;
pub use dps::Norm;
pub use problem::{residual, Problem};
pub use rows::{course_pairs, renoised, travelling, Travel};
pub use spread::Spread;

/// A method, with what is its own.
#[derive(Clone)]
pub enum Method {
    Dps { scale: Option<f64>, norm: Norm, guide_below: f64 },
    Diffpir { lambda: f64 },
    Ddnm { eta: f64 },
    Pigdm(Spread),
    Mmps { cg_steps: usize },
    Daps { spread: Spread, widen: bool },
    DapsJacobian { steps: usize },
    CourseDps { scale: f64 },
    CourseDiffpir { tau: f64 },
}

impl Method {
    /// What it does to a sampler's steps; `clip` as the sampler has it.
    pub fn correction(self, problem: Problem, clip: bool) -> Result<Box<dyn Correction + Send>> {
        Ok(match self {
            Self::Dps { scale, norm, guide_below } => Box::new(dps::Dps::new(problem, scale, norm, guide_below)),
            Self::Diffpir { lambda } => Box::new(diffpir::Diffpir { problem, lambda }),
            Self::Ddnm { eta } => Box::new(ddnm::Ddnm::new(problem, eta)?),
            Self::Pigdm(spread) => Box::new(pigdm::Pigdm { spread: spread.beside(&problem)?, problem }),
            Self::Mmps { cg_steps } => Box::new(mmps::Mmps { problem, cg_steps }),
            Self::Daps { spread, widen } => {
                let spread = spread.beside(&problem)?;
                Box::new(daps::Daps { spread, widen, problem })
            }
            Self::DapsJacobian { steps } => Box::new(daps::DapsJacobian { problem, steps }),
            Self::CourseDps { scale } => Box::new(course::Dps::new(problem, scale, clip)),
            Self::CourseDiffpir { tau } => Box::new(course::Diffpir { problem, tau, clip }),
        })
    }
}
