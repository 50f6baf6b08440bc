//! A denoiser on an accelerator, whose work is recorded once for all steps, and kept for the next images.

use tch::Tensor;

use super::Denoiser;
use crate::error::Result;
use crate::graph::{Recorder, Recording};

/// `inner` behind tensors that stay in their place, as a recording needs it.
pub struct Recorded<D> {
    inner: D,
    recording: Recording,
    x: Tensor,
    t: Tensor,
    out: Option<Tensor>,
}

impl<D: Denoiser> Recorded<D> {
    /// For batches of the shape, dtype and device of `x`.
    pub fn new(inner: D, recorder: Box<dyn Recorder + Send>, x: &Tensor) -> Result<Self> {
        let t = Tensor::f_zeros([x.size()[0]], (tch::Kind::Int64, x.device()))?;
        Ok(Self { inner, recording: Recording::new(Some(recorder)), x: x.f_zeros_like()?, t, out: None })
    }

    pub fn inner(&self) -> &D {
        &self.inner
    }

    pub fn inner_mut(&mut self) -> &mut D {
        &mut self.inner
    }

    /// Whether batches like `x` have its place.
    pub fn fits(&self, x: &Tensor) -> bool {
        let like = |a: &Tensor, b: &Tensor| a.size() == b.size() && a.kind() == b.kind() && a.device() == b.device();
        like(&self.x, x)
    }
}

impl<D: Denoiser> Denoiser for Recorded<D> {
    /// The prediction lies where the next one will.
    fn predict(&mut self, x: &Tensor, t: &Tensor) -> Result<Tensor> {
        self.x.f_copy_(x)?;
        self.t.f_copy_(t)?;
        let Self { inner, recording, x, t, out } = self;
        recording.run(&mut || {
            *out = Some(inner.predict(x, t)?);
            Ok(())
        })?;
        match out {
            Some(out) => Ok(out.shallow_clone()),
            None => inner.predict(x, t),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fakes::{schedule, Oracle};
    use super::*;
    use tch::{Device, Kind};

    struct Refuses;

    impl Recorder for Refuses {
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

    #[test]
    fn predictions_are_those_of_the_denoiser_inside() {
        let alpha_bars = schedule(10).alpha_bars;
        let oracle = || Oracle { alpha_bars: alpha_bars.clone(), x0: 0.5, seen: vec![] };
        let x = Tensor::randn([2, 1, 4, 4], (Kind::Float, Device::Cpu));
        let mut recorded = Recorded::new(oracle(), Box::new(Refuses), &x).expect("a place");
        assert!(recorded.fits(&x) && !recorded.fits(&x.narrow(0, 0, 1)));
        for k in (0..8).rev() {
            let x = Tensor::randn([2, 1, 4, 4], (Kind::Float, Device::Cpu));
            let t = Tensor::from_slice(&[k, k]);
            let (got, want) = (recorded.predict(&x, &t), oracle().predict(&x, &t));
            assert_eq!(got.expect("a prediction"), want.expect("a prediction"));
        }
        assert_eq!(recorded.inner().seen, (0..8).rev().collect::<Vec<i64>>());
    }
}
