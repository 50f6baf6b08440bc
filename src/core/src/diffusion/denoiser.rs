//! The seam between the mathematics and whatever predicts.

use tch::{Kind, Tensor};

use crate::error::{Error, Result};

/// (x_t, t) -> a prediction of the shape of x_t; what it predicts is its [`super::Objective`].
///
/// t has shape (B,) and lies on x's device: int64 on a schedule's own timesteps, float32 between them.
pub trait Denoiser {
    fn predict(&mut self, x: &Tensor, t: &Tensor) -> Result<Tensor>;

    /// The prediction, with what takes weights on it back to x. Nothing is computed for the network's own weights.
    fn predict_with_vjp<'a>(&'a mut self, _x: &Tensor, _t: &Tensor) -> Result<(Tensor, Box<dyn Vjp + 'a>)> {
        Err(Error::Type("model cannot be differentiated with respect to x_t".into()))
    }
}

/// The way back through one prediction, as often as it is asked.
pub trait Vjp {
    /// (d prediction / d x_t)^T w: the gradient by x_t of <w, prediction>, of the shape of x_t, in float32.
    fn vjp(&mut self, w: &Tensor) -> Result<Tensor>;
}

/// [`Denoiser::predict_with_vjp`] for a prediction in operations that torch's autograd can follow.
pub fn by_autograd(
    x: &Tensor,
    predict: impl FnOnce(&Tensor) -> Result<Tensor>,
) -> Result<(Tensor, Box<dyn Vjp + 'static>)> {
    let x = x.f_detach()?.f_set_requires_grad(true)?;
    let out = tch::with_grad(|| predict(&x))?;
    if !out.requires_grad() {
        return Err(Error::Type(
            "model gave a prediction without a gradient with respect to x_t, which this method follows: model must not \
             switch gradients off (torch.no_grad) nor detach"
                .into(),
        ));
    }
    Ok((out.f_detach()?, Box::new(Autograd { x, out })))
}

struct Autograd {
    x: Tensor,
    out: Tensor,
}

impl Vjp for Autograd {
    fn vjp(&mut self, w: &Tensor) -> Result<Tensor> {
        let inner = tch::with_grad(|| self.out.f_mul(w)?.f_sum(Kind::Float))?;
        let mut gradients = Tensor::f_run_backward(&[inner], &[&self.x], true, false)?;
        gradients.pop().ok_or_else(|| Error::Runtime("torch gave no gradient".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn autograd_takes_weights_back_as_often_as_asked() {
        let x = Tensor::randn([2, 3], (Kind::Float, Device::Cpu));
        let _quiet = tch::no_grad_guard();
        let (out, mut back) = by_autograd(&x, |x| Ok(x.f_square()?)).expect("a prediction");
        assert_eq!(out, x.square());
        assert!(!out.requires_grad());
        for factor in [1.0, 3.0] {
            let w = Tensor::full([2, 3], factor, (Kind::Float, Device::Cpu));
            let got = back.vjp(&w).expect("a gradient");
            assert!(f64::try_from((got - 2.0 * factor * &x).abs().max()).expect("a number") < 1e-6);
        }
    }

    #[test]
    fn what_does_not_depend_on_x_is_refused() {
        let x = Tensor::zeros([2], (Kind::Float, Device::Cpu));
        let constant = by_autograd(&x, |x| Ok(x.f_detach()?));
        assert!(constant.is_err());
    }
}
