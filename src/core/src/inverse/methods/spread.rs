//! How x0 given x_t is spread about x0_hat, as far as it is known beforehand.

use std::sync::Arc;

use tch::Tensor;

use super::widening::widening;
use super::Problem;
use crate::error::{ensure, Error, Result};
use crate::inverse::operator::{normal, Shape};
use crate::inverse::solve::cg::{solve_near, Limits};
use crate::inverse::solve::circulant::Circulant;
use crate::inverse::solve::spectrum::{precise, Spectrum};
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
    fn check(&self, images: Shape) -> Result<()> {
        let Self::Modes(planes) = self else { return Ok(()) };
        let wanted = [images.height, images.width / 2 + 1];
        for plane in planes.iter() {
            let size = plane.0.size();
            ensure!(size == wanted, Value, "r2 must have {wanted:?} modes for the operator's images, got {size:?}");
        }
        Ok(())
    }
}

/// The covariance, once it is checked.
pub enum Known {
    Even(Vec<f64>),
    Modes(Arc<[Modes]>),
}

impl Known {
    /// Checked against the operator's images.
    pub fn beside(spread: Spread, problem: &Problem) -> Result<Self> {
        spread.check(problem.operator.img_shape())?;
        Ok(match spread {
            Spread::Even(r2) => Self::Even(r2),
            Spread::Modes(planes) => Self::Modes(planes),
        })
    }
}

/// What belongs to this question.
pub fn at_step<'a, T>(all: &'a [T], at: &At) -> Result<&'a T> {
    all.get(at.index).ok_or_else(|| Error::Runtime("internal error: r2 has too few entries".into()))
}

/// A covariance that Fourier modes are the eigenvectors of.
pub struct Modes(Circulant);

impl Modes {
    /// C K' (K C K' + sigma^2)^-1 r, from (K'K + sigma^2 C^-1) x = K' r, solved near what K'K does to
    /// modes. What K hardly sees is a small part of the misfit: `tolerance` is to be far below the noise's.
    pub fn towards(&self, r: &Tensor, problem: &Problem, tolerance: f64) -> Result<Tensor> {
        let operator = problem.operator.as_ref();
        let kind = precise(r);
        let [seen, known] =
            [problem.near()?, &self.0].map(|modes| modes.values().f_to_device(r.device())?.f_to_kind(kind));
        let stiffness = problem.sigma.f_square()?.f_to_kind(kind)?.f_div(&known?)?;
        let compliance = seen?.f_add(&stiffness)?.f_reciprocal()?;
        let filtered = |v: &Tensor, factors: &Tensor| self.0.filter(v, &|_| Ok(factors.shallow_clone()));
        let mut system = |x: &Tensor| Ok(normal(operator, x)?.f_add(&filtered(x, &stiffness)?)?);
        let limits = Limits { tolerance, ..problem.limits() };
        solve_near(&mut system, &mut |v| filtered(v, &compliance), &operator.adjoint(r)?, limits)
    }

    /// As wide as each image's measurement asks for.
    pub fn widened(&self, problem: &Problem, x0_hat: &Tensor) -> Result<Self> {
        let variances = self.0.values();
        Ok(Self(Circulant::with(variances.f_mul(&widening(problem, &variances, x0_hat)?)?)))
    }

    /// C^-1 v.
    pub fn over(&self, v: &Tensor) -> Result<Tensor> {
        self.0.filter(v, &|variances| Ok(variances.f_reciprocal()?))
    }

    /// C^(1/2) v.
    pub fn root_times(&self, v: &Tensor) -> Result<Tensor> {
        self.0.filter(v, &|variances| Ok(variances.f_sqrt()?))
    }
}
