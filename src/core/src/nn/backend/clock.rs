//! A way of computing that also tells how long each operation takes.

use std::time::Instant;

use tch::Tensor;

use crate::error::Result;
use crate::nn::blueprint::{Attention, Conv, Norm, ResBlock, TimeEmbedding};
use crate::nn::wiring::Backend;

/// Another way of computing, and the seconds of each operation that it has done, by kind.
pub struct Clock<'a, B> {
    backend: &'a mut B,
    pub took: Vec<(&'static str, f64)>,
}

impl<'a, B: Backend> Clock<'a, B> {
    pub fn beside(backend: &'a mut B) -> Self {
        Self { backend, took: vec![] }
    }

    fn timed<T>(&mut self, kind: &'static str, work: impl FnOnce(&mut B) -> Result<T>) -> Result<T> {
        let begin = Instant::now();
        let out = work(self.backend)?;
        self.took.push((kind, begin.elapsed().as_secs_f64()));
        Ok(out)
    }
}

impl<B: Backend> Backend for Clock<'_, B> {
    type Act = B::Act;
    type Time = B::Time;

    fn input(&mut self, x: &Tensor) -> Result<B::Act> {
        self.backend.input(x)
    }
    fn time(&mut self, time: &TimeEmbedding, t: &Tensor) -> Result<B::Time> {
        self.timed("time embedding", |backend| backend.time(time, t))
    }
    fn conv(&mut self, conv: &Conv, x: B::Act) -> Result<B::Act> {
        self.timed("convolution", |backend| backend.conv(conv, x))
    }
    fn res_block(&mut self, block: &ResBlock, x: B::Act, skip: Option<B::Act>, time: &B::Time) -> Result<B::Act> {
        self.timed("residual block", |backend| backend.res_block(block, x, skip, time))
    }
    fn attention(&mut self, attention: &Attention, x: B::Act) -> Result<B::Act> {
        self.timed("attention", |backend| backend.attention(attention, x))
    }
    fn upsample(&mut self, conv: &Conv, x: B::Act) -> Result<B::Act> {
        self.timed("doubling", |backend| backend.upsample(conv, x))
    }
    fn head(&mut self, norm: &Norm, conv: &Conv, x: B::Act) -> Result<B::Act> {
        self.timed("head", |backend| backend.head(norm, conv, x))
    }
    fn share(&mut self, x: &B::Act) -> B::Act {
        self.backend.share(x)
    }
}
