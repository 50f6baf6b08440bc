//! Functions of K'K, where its eigenvalues are known in closed form: what solves, inverts and draws without iterations.

use tch::{Kind, Tensor};

use super::constant::Constant;
use crate::error::Result;

/// What an eigenvalue of K'K is to be replaced by. Takes a tensor of them and gives one that broadcasts with it; numbers per
/// image have shape (N, 1, 1, 1).
pub type Function<'a> = dyn Fn(&Tensor) -> Result<Tensor> + 'a;

/// The eigenvectors and eigenvalues of K'K.
pub trait Spectrum: Send + Sync {
    /// f(K'K) x for x (N, C, H, W), in the dtype of x.
    fn filter(&self, x: &Tensor, f: &Function) -> Result<Tensor>;
    /// The largest eigenvalue.
    fn largest(&self) -> Result<f64>;
}

/// K'K = I.
pub struct One;

impl Spectrum for One {
    fn filter(&self, x: &Tensor, f: &Function) -> Result<Tensor> {
        multiplied(x, &f(&number(1.0, x)?)?)
    }
    fn largest(&self) -> Result<f64> {
        Ok(1.0)
    }
}

/// K'K multiplies each pixel with a number of its own.
pub struct Diagonal(Constant);

impl Diagonal {
    /// The squares of the numbers, (1, 1 or C, H, W).
    pub fn of(squares: Tensor) -> Self {
        Self(Constant::new(squares))
    }
}

impl Spectrum for Diagonal {
    fn filter(&self, x: &Tensor, f: &Function) -> Result<Tensor> {
        multiplied(x, &f(&self.0.like(x, precise(x))?)?)
    }
    fn largest(&self) -> Result<f64> {
        Ok(self.0.get().f_max()?.f_double_value(&[])?)
    }
}

/// f(scale^2 K'K): the spectrum of scale * K.
pub struct Scaled<'a> {
    pub of: &'a dyn Spectrum,
    pub scale: f64,
}

impl Spectrum for Scaled<'_> {
    fn filter(&self, x: &Tensor, f: &Function) -> Result<Tensor> {
        self.of.filter(x, &|s| f(&s.f_mul_scalar(self.scale * self.scale)?))
    }
    fn largest(&self) -> Result<f64> {
        Ok(self.of.largest()? * self.scale * self.scale)
    }
}

/// One eigenvalue, in float64 where the device has it.
pub fn number(value: f64, like: &Tensor) -> Result<Tensor> {
    Ok(Tensor::f_full([1, 1, 1, 1], value, (precise(like), like.device()))?)
}

/// The dtype that spectra are computed in.
pub fn precise(x: &Tensor) -> Kind {
    match x.device() {
        tch::Device::Mps => Kind::Float,
        _ => Kind::Double,
    }
}

/// x * weight in the weight's dtype, given back in that of x.
pub fn multiplied(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    Ok(x.f_mul(weight)?.f_to_kind(x.kind())?)
}
