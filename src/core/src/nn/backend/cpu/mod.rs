//! The network on the CPU: fused kernels on NHWC memory, with a backward pass of its own instead of torch's autograd.

mod attention;
mod block;
mod conv;
mod mask;
mod modulation;
mod ops;
mod prepared;
mod tape;
mod time;
mod weights;

use tch::{Device, Kind, Tensor};

pub use prepared::{Prepared, Stamp};
pub use tape::{Tape, Wanted};
pub use weights::Weights;

use crate::error::Result;
use crate::libtorch::AutocastOff;
use crate::nn::backend::clock::Clock;
use crate::nn::blueprint::{Attention, Conv, Norm, ResBlock, TimeEmbedding};
use crate::nn::wiring::{self, Backend};
use crate::switches::Kernels;
use conv::{conv_forward, Resize};
use ops::{nchw, nhwc, norm_forward, After, Input};
use tape::{Id, TapeEntry};

/// An activation: NHWC memory and its place in the tape.
pub struct Act {
    data: Tensor,
    id: Id,
}

struct Engine<'a> {
    weights: &'a Weights,
    dropout: f64,
    /// Whether what only the weights' gradients need is kept.
    keep: bool,
    activations: usize,
    tape: Option<Tape>,
}

/// The prediction (B, C, H, W) in float32 and, if gradients are wanted, the tape for them. `dropout` is a probability; its
/// masks come from torch's CPU generator, block by block.
pub fn forward(
    weights: &Weights,
    x: &Tensor,
    t: &Tensor,
    dropout: f64,
    wanted: Option<Wanted>,
) -> Result<(Tensor, Option<Tape>)> {
    let _modes = (tch::no_grad_guard(), AutocastOff::new());
    let mut engine = Engine::new(weights, dropout, wanted);
    let out = wiring::forward(&weights.plan, &mut engine, x, t)?;
    let prediction = nchw(&out.data)?.f_to_kind(Kind::Float)?.f_contiguous()?;
    let activations = engine.activations;
    let tape = engine.tape.map(|tape| Tape { activations, ..tape });
    Ok((prediction, tape))
}

/// Pixels that are taken at a time: enough to keep every thread busy, and few enough for activations to stay in the
/// caches and, of any number of images, to fit into memory.
const MOST_PIXELS: i64 = 8 * 64 * 64;

/// The prediction alone, some images at a time; all at once under dropout, whose masks are drawn for a whole batch.
pub fn predict(weights: &Weights, x: &Tensor, t: &Tensor, dropout: f64) -> Result<Tensor> {
    let (images, _, height, width) = x.size4()?;
    let most = (MOST_PIXELS / (height * width)).max(1);
    let part = |x: &Tensor, t: &Tensor| Ok(forward(weights, x, t, dropout, None)?.0);
    if images <= most || dropout > 0.0 {
        return part(x, t);
    }
    let (x, t) = (x.f_split(most, 0)?, t.f_split(most, 0)?);
    let parts = x.iter().zip(&t).map(|(x, t)| part(x, t)).collect::<Result<Vec<_>>>()?;
    Ok(Tensor::f_cat(&parts, 0)?)
}

/// What each operation of a prediction takes, in seconds and by kind, in the order of the network; all images at once.
pub fn times(weights: &Weights, x: &Tensor, t: &Tensor) -> Result<Vec<(&'static str, f64)>> {
    let _modes = (tch::no_grad_guard(), AutocastOff::new());
    let mut engine = Engine::new(weights, 0.0, None);
    let mut clock = Clock::beside(&mut engine);
    wiring::forward(&weights.plan, &mut clock, x, t)?;
    Ok(clock.took)
}

/// Whether the engine computes a network: float32 weights on a CPU that there are kernels for, dropout that leaves something.
pub fn supports(params: &[Tensor], dropout: f64) -> bool {
    supports_on(Kernels::in_use(), params, dropout)
}

fn supports_on(kernels: Kernels, params: &[Tensor], dropout: f64) -> bool {
    let plain = |p: &Tensor| p.device() == Device::Cpu && p.f_kind().ok() == Some(Kind::Float) && p.is_contiguous();
    kernels != Kernels::Libtorch && dropout < 1.0 && params.iter().all(plain)
}

impl<'a> Engine<'a> {
    fn new(weights: &'a Weights, dropout: f64, wanted: Option<Wanted>) -> Self {
        let keep = wanted.is_some_and(|wanted| wanted.weights);
        Self { weights, dropout, keep, activations: 0, tape: wanted.map(|_| Tape::default()) }
    }

    fn act(&mut self, data: Tensor) -> Act {
        let id = self.activations;
        self.activations += 1;
        Act { data, id }
    }

    fn record(&mut self, make: impl FnOnce() -> TapeEntry) {
        if let Some(tape) = &mut self.tape {
            tape.entries.push(make());
        }
    }

    fn convolve(&mut self, conv: &Conv, resize: Resize, x: Act) -> Result<Act> {
        let y = conv_forward(self.weights, conv, resize, &x.data, None)?;
        let y = self.act(y);
        let (from, to, keep) = (x.id, y.id, self.keep);
        self.record(|| TapeEntry::Conv { conv: *conv, resize, x: keep.then_some(x.data), from, to });
        Ok(y)
    }
}

impl Backend for Engine<'_> {
    type Act = Act;
    type Time = Tensor;

    fn input(&mut self, x: &Tensor) -> Result<Act> {
        let data = nhwc(&x.f_detach()?.f_to_kind(self.weights.kind)?)?;
        Ok(self.act(data))
    }

    fn time(&mut self, time: &TimeEmbedding, t: &Tensor) -> Result<Tensor> {
        let (out, saved) = time::forward(self.weights, time, t)?;
        if let Some(tape) = &mut self.tape {
            tape.time = Some((out.shallow_clone(), saved));
        }
        Ok(out)
    }

    fn conv(&mut self, conv: &Conv, x: Act) -> Result<Act> {
        self.convolve(conv, Resize::of(conv), x)
    }

    fn res_block(&mut self, layer: &ResBlock, x: Act, skip: Option<Act>, time: &Tensor) -> Result<Act> {
        let (from, skip_id) = (x.id, skip.as_ref().map(|s| s.id));
        let skip = skip.map(|s| s.data);
        let (y, saved) = block::forward(self.weights, layer, x.data, skip, time, self.dropout, self.keep)?;
        let y = self.act(y);
        let to = y.id;
        self.record(|| TapeEntry::Block { saved: Box::new(saved), from, skip: skip_id, to });
        Ok(y)
    }

    fn attention(&mut self, layer: &Attention, x: Act) -> Result<Act> {
        let from = x.id;
        let (y, saved) = attention::forward(self.weights, layer, x.data, self.keep)?;
        let y = self.act(y);
        let to = y.id;
        self.record(|| TapeEntry::Attention { saved: Box::new(saved), from, to });
        Ok(y)
    }

    fn upsample(&mut self, conv: &Conv, x: Act) -> Result<Act> {
        self.convolve(conv, Resize::Double, x)
    }

    fn head(&mut self, norm: &Norm, conv: &Conv, x: Act) -> Result<Act> {
        let input = Input { first: &x.data, second: None, shift: None };
        let (active, stats) = norm_forward(self.weights, norm, After { silu: true, dropout: None }, input)?;
        let y = conv_forward(self.weights, conv, Resize::Keep, &active, None)?;
        let y = self.act(y);
        let active = self.keep.then_some(active);
        self.record(|| TapeEntry::Head { norm: *norm, conv: *conv, x: x.data, stats, active, from: x.id });
        Ok(y)
    }

    fn share(&mut self, x: &Act) -> Act {
        Act { data: x.data.shallow_clone(), id: x.id }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_left_to_libtorch_where_it_is_chosen() {
        let params = [Tensor::zeros([2], (Kind::Float, Device::Cpu))];
        let by = [Kernels::Libtorch, Kernels::Portable, Kernels::Avx2, Kernels::Avx512, Kernels::Amx];
        assert_eq!(by.map(|kernels| supports_on(kernels, &params, 0.0)), [false, true, true, true, true]);
        assert_ne!(Kernels::in_use(), Kernels::Portable); // plain loops are taken only where they are asked for
    }
}
