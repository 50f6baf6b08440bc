//! What dropout keeps of an activation.

use std::sync::OnceLock;

use diffusion_kernels::norm::dropout::{channels_last, draw, Twister};
use diffusion_kernels::norm::Dropout;
use diffusion_kernels::source::Images;
use tch::{Kind, Tensor};

use crate::error::Result;
use crate::libtorch::{bernoulli, slice, slice_mut, with_generator, TorchPool};

pub struct Mask {
    p: f64,
    /// (N, H, W, C): 1 where an element is kept, 0 where it is dropped.
    kept: Tensor,
}

impl Mask {
    /// For an activation like `x` (N, H, W, C): the mask, and the draws from torch's CPU generator, that torch's own dropout
    /// of probability `p` has for it as a dense NCHW tensor.
    pub fn draw(p: f64, x: &Tensor) -> Result<Self> {
        let (b, h, w, c) = x.size4()?;
        let options = (Kind::Uint8, x.device());
        let mut planes = Tensor::f_empty([b, c, h, w], options)?;
        if torch_draws_one_by_one() {
            let kept = slice_mut::<u8>(&mut planes)?;
            with_generator(|twister| draw(twister, 1.0 - p, kept))?;
        } else {
            let _ = planes.f_bernoulli_float_(1.0 - p)?;
        }
        let mut kept = Tensor::f_empty([b, h, w, c], options)?;
        let images = Images { batch: b as usize, height: h as usize, width: w as usize };
        channels_last(&TorchPool, images, c as usize, slice::<u8>(&planes)?, slice_mut::<u8>(&mut kept)?)?;
        Ok(Self { p, kept })
    }

    /// `x` (N, H, W, C) with what is dropped set to zero and the rest scaled.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_mul(&self.kept)?.f_div_scalar(1.0 - self.p)?)
    }

    pub fn dropout(&self) -> Result<Dropout<'_>> {
        Ok(Dropout { p: self.p, kept: slice::<u8>(&self.kept)? })
    }
}

/// Whether torch makes a mask of two numbers an element, which [`draw`] does several times faster. With MKL on processors of
/// Intel it does not; so it is asked, once, for a mask of a generator made for this.
fn torch_draws_one_by_one() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        const SEED: u32 = 1_234;
        let mut ours = [0; 2_000];
        draw(&mut Twister::seeded(SEED), 0.7, &mut ours);
        let theirs = bernoulli(u64::from(SEED), 0.7, ours.len());
        theirs.is_ok_and(|theirs| slice::<u8>(&theirs).is_ok_and(|theirs| theirs == ours))
    })
}
