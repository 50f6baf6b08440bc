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

use tch::Tensor;

use crate::diffusion::process::Denoised;
use crate::diffusion::Noise;
use crate::error::{ensure, Result};
use crate::libtorch::is_finite;
use crate::sampler::{At, Correction, Means};
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
        let method: Box<dyn Correction + Send> = match self {
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
        };
        Ok(Box::new(Watched(method)))
    }
}

/// A method that ends where it makes NaN: guidance that has gone astray does not come back, and each further step costs as
/// much as the last.
struct Watched(Box<dyn Correction + Send>);

impl Correction for Watched {
    fn differentiates(&self, at: &At) -> bool {
        self.0.differentiates(at)
    }
    fn denoised(&mut self, at: &At, x_t: &Tensor, said: Denoised, means: &mut Means) -> Result<Denoised> {
        self.0.denoised(at, x_t, said, means)
    }
    fn after(&mut self, at: &At, x_next: Tensor, noise: &mut dyn Noise) -> Result<Tensor> {
        let x = self.0.after(at, x_next, noise)?;
        let (step, total, t) = (at.index + 1, at.total, at.t);
        ensure!(
            is_finite(&x)?,
            Value,
            "step {step} of {total} (t = {t}) made NaN or infinity: model's answer is not finite, y is not on the scale of \
             K x for images in [-1, 1], or the method's step size is too large"
        );
        Ok(x)
    }
}
