//! How x0 given x_t is spread about x0_hat, as far as it is known beforehand.

use std::sync::Arc;

use tch::Tensor;

use super::Problem;
use crate::error::{ensure, Error, Result};
use crate::inverse::operator::Shape;
use crate::inverse::solve::cg::Limits;
use crate::inverse::solve::circulant::Circulant;
use crate::inverse::solve::spectrum::Spectrum;
use crate::sampler::At;

/// The covariance at each question to the network.
#[derive(Clone)]
pub enum Spread {
    /// r2 I.
    Even(Vec<f64>),
    /// The same everywhere on the image, but not independent from pixel to pixel: Fourier modes are.
    Modes(Arc<[Modes]>),
}

impl Spread {
    /// From the variances of Fourier modes, (questions, H, W / 2 + 1), in the order of a real transform whose norm is "ortho".
    pub fn modes(variances: &Tensor) -> Result<Self> {
        let (questions, ..) = variances.size3()?;
        let planes = (0..questions).map(|k| Ok(Modes(Circulant::with(variances.f_get(k)?.f_contiguous()?))));
        Ok(Self::Modes(planes.collect::<Result<Vec<_>>>()?.into()))
    }

    /// Whether it is one for these images.
    pub fn check(&self, images: Shape) -> Result<()> {
        let Self::Modes(planes) = self else { return Ok(()) };
        let wanted = [images.height, images.width / 2 + 1];
        for plane in planes.iter() {
            let size = plane.0.size();
            ensure!(size == wanted, Value, "r2 must have {wanted:?} modes for the operator's images, got {size:?}");
        }
        Ok(())
    }
}

/// What belongs to this question.
pub fn at_step<'a, T>(all: &'a [T], at: &At) -> Result<&'a T> {
    all.get(at.index).ok_or_else(|| Error::Runtime("internal error: r2 has too few entries".into()))
}

/// A covariance that Fourier modes are the eigenvectors of.
pub struct Modes(Circulant);

impl Modes {
    /// C v.
    pub fn times(&self, v: &Tensor) -> Result<Tensor> {
        self.0.filter(v, &|variances| Ok(variances.shallow_clone()))
    }

    /// How accurately systems with it are solved: an error of a thousandth of the misfit is lost in the noise of y.
    pub fn limits(&self, problem: &Problem) -> Limits {
        Limits { tolerance: 1e-3, ..problem.limits() }
    }

    /// C^(1/2) v.
    pub fn root_times(&self, v: &Tensor) -> Result<Tensor> {
        self.0.filter(v, &|variances| Ok(variances.f_sqrt()?))
    }
}
