//! How x0 given x_t is spread about x0_hat, as far as it is known beforehand.

mod covariance;
mod widening;

use std::sync::Arc;

use tch::Tensor;

use super::problem::Problem;
use crate::error::{ensure, Error, Result};
use crate::inverse::local::Local;
use crate::inverse::solve::circulant::Circulant;
use crate::sampler::At;
use covariance::Covariance;
pub use widening::widening;

/// The covariance at each question to the network.
#[derive(Clone)]
pub enum Spread {
    /// r2 I.
    Even(Vec<f64>),
    /// Not independent from pixel to pixel: Fourier modes are.
    Modes(Arc<[Modes]>),
}

impl Spread {
    /// The same everywhere on the image, from the variances of Fourier modes, (questions, H, W / 2 + 1), in the order of a real
    /// transform whose norm is "ortho".
    pub fn modes(variances: &Tensor) -> Result<Self> {
        Self::each(variances, |_| Ok(None))
    }

    /// Wider where more happens: the variance of a pixel follows from the gradients around it, by a curve through
    /// `variances` at `gradients`, both (questions, points); `modes` are those of errors over their standard deviations.
    pub fn local(modes: &Tensor, gradients: &Tensor, variances: &Tensor) -> Result<Self> {
        Self::each(modes, |k| Local::through(&gradients.f_get(k)?, &variances.f_get(k)?).map(Some))
    }

    fn each(modes: &Tensor, local: impl Fn(i64) -> Result<Option<Local>>) -> Result<Self> {
        let (questions, ..) = modes.size3()?;
        let one = |k| Ok(Modes { modes: Circulant::with(modes.f_get(k)?.f_contiguous()?), local: local(k)? });
        Ok(Self::Modes((0..questions).map(one).collect::<Result<Vec<_>>>()?.into()))
    }

    /// The same, if it is one for the operator's images.
    pub fn beside(self, problem: &Problem) -> Result<Self> {
        let images = problem.operator.img_shape();
        let wanted = [images.height, images.width / 2 + 1];
        if let Self::Modes(planes) = &self {
            for plane in planes.iter() {
                let size = plane.modes.size();
                ensure!(size == wanted, Value, "r2 must have {wanted:?} modes for the operator's images, got {size:?}");
            }
        }
        Ok(self)
    }
}

/// What belongs to this question.
pub fn at_step<'a, T>(all: &'a [T], at: &At) -> Result<&'a T> {
    all.get(at.index).ok_or_else(|| Error::Runtime("internal error: r2 has too few entries".into()))
}

/// What is known of the covariance at a question, before it is put.
pub struct Modes {
    modes: Circulant,
    local: Option<Local>,
}

impl Modes {
    /// That of x0 about an estimate.
    pub fn about(&self, x0_hat: &Tensor) -> Result<Covariance> {
        let deviations = self.local.as_ref().map(|local| local.deviations(x0_hat)).transpose()?;
        Ok(Covariance::new(self.modes.values(), deviations))
    }
}
