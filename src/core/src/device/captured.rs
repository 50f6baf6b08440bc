//! A denoiser on an accelerator whose pass is captured once, and kept for the next images.

use tch::Tensor;

use super::{Capture, Graph};
use crate::diffusion::{Denoiser, Vjp};
use crate::error::{Error, Result};

/// `inner`, which draws no random numbers, asked on tensors that stay in their place, as a capture needs it.
pub struct Captured<D> {
    inner: D,
    capture: Capture,
    /// x_t and t of the captured pass.
    asked: Option<(Tensor, Tensor)>,
    answer: Option<Tensor>,
}

fn like(a: &Tensor, b: &Tensor) -> bool {
    a.size() == b.size() && a.kind() == b.kind() && a.device() == b.device()
}

impl<D: Denoiser> Captured<D> {
    pub fn new(inner: D, graph: Box<dyn Graph + Send>) -> Self {
        Self { inner, capture: Capture::new(Some(graph)), asked: None, answer: None }
    }

    pub fn inner(&self) -> &D {
        &self.inner
    }

    pub fn inner_mut(&mut self) -> &mut D {
        &mut self.inner
    }

    /// Whether it serves batches like `x`.
    pub fn fits(&self, x: &Tensor) -> bool {
        self.asked.as_ref().is_none_or(|(place, _)| like(place, x))
    }
}

impl<D: Denoiser> Denoiser for Captured<D> {
    fn predict(&mut self, x: &Tensor, t: &Tensor) -> Result<Tensor> {
        let Self { inner, capture, asked, answer } = self;
        if asked.is_none() {
            *asked = Some((x.f_empty_like()?, t.f_empty_like()?));
        }
        let (own_x, own_t) = match asked {
            Some((own_x, own_t)) if like(own_x, x) && like(own_t, t) => (own_x, own_t),
            _ => return inner.predict(x, t),
        };
        own_x.f_copy_(x)?;
        own_t.f_copy_(t)?;
        capture.run(&mut || {
            *answer = Some(inner.predict(own_x, own_t)?);
            Ok(())
        })?;
        let answer = answer.as_ref().ok_or_else(|| Error::Runtime("a captured pass left nothing".into()))?;
        // the next pass will write where this one did
        let mut copy = answer.f_empty_like()?;
        copy.f_copy_(answer)?;
        Ok(copy)
    }

    fn predict_with_vjp<'a>(&'a mut self, x: &Tensor, t: &Tensor) -> Result<(Tensor, Box<dyn Vjp + 'a>)> {
        self.inner.predict_with_vjp(x, t)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    struct Refuses;

    impl Graph for Refuses {
        fn begin(&mut self) -> Result<bool> {
            Ok(false)
        }
        fn end(&mut self, _: bool) -> Result<bool> {
            Ok(false)
        }
        fn replay(&mut self) -> Result<()> {
            Ok(())
        }
    }

    struct Scales(f64);

    impl Denoiser for Scales {
        fn predict(&mut self, x: &Tensor, t: &Tensor) -> Result<Tensor> {
            Ok(x.f_mul_scalar(self.0)?.f_add(&t.f_view([-1, 1])?)?)
        }
    }

    #[test]
    fn answers_are_those_of_the_denoiser_inside_and_stay_as_they_are() {
        let mut captured = Captured::new(Scales(3.0), Box::new(Refuses));
        let mut kept = vec![];
        for k in 0..6 {
            let x = Tensor::full([2, 2], k, (Kind::Float, Device::Cpu));
            let t = Tensor::full([2], k, (Kind::Int64, Device::Cpu));
            assert!(captured.fits(&x));
            kept.push((captured.predict(&x, &t).expect("an answer"), 4.0 * k as f64));
        }
        for (answer, want) in kept {
            assert_eq!(answer, Tensor::full([2, 2], want, (Kind::Float, Device::Cpu)));
        }
        let other = Tensor::zeros([1, 2], (Kind::Float, Device::Cpu));
        assert!(!captured.fits(&other));
        let t = Tensor::zeros([1], (Kind::Int64, Device::Cpu));
        assert_eq!(captured.predict(&other, &t).expect("an answer"), other);
    }
}
