//! What a forward pass did, and the way back through it.

use tch::{Kind, Tensor};

use super::conv::{conv_backward, conv_backward_whole, Resize};
use super::ops::{nchw, nhwc, norm_backward, After, Input, InputGradient, WeightGradients};
use super::weights::Weights;
use super::{attention, block, time};
use crate::error::{Error, Result};
use crate::libtorch::{add_in_place, AutocastOff};
use crate::nn::blueprint::{Conv, Norm};

/// Which gradients a tape is made for; what only the others need is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub input: bool,
    pub weights: bool,
}

impl Wanted {
    pub const INPUT: Self = Self { input: true, weights: false };
    pub const WEIGHTS: Self = Self { input: false, weights: true };
}

/// The place of an activation in the table of gradients.
pub type Id = usize;

/// One operation; `x` of a convolution, `active` of a head are there if the weights' gradients are wanted.
pub enum TapeEntry {
    Conv { conv: Conv, resize: Resize, x: Option<Tensor>, from: Id, to: Id },
    Block { saved: Box<block::Saved>, from: Id, skip: Option<Id>, to: Id },
    Attention { saved: Box<attention::Saved>, from: Id, to: Id },
    Head { norm: Norm, conv: Conv, x: Tensor, stats: Tensor, active: Option<Tensor>, from: Id },
}

#[derive(Default)]
pub struct Tape {
    pub entries: Vec<TapeEntry>,
    pub activations: usize,
    pub time: Option<(Tensor, time::Saved)>,
}

/// The activation that is the network's input.
pub const INPUT: Id = 0;

const SILU: After = After { silu: true, dropout: None };

struct Table(Vec<Option<Tensor>>);

impl Table {
    fn add(&mut self, id: Id, gradient: Tensor) -> Result<()> {
        match &mut self.0[id] {
            Some(sum) => add_in_place(sum, &gradient),
            empty => {
                *empty = Some(gradient);
                Ok(())
            }
        }
    }

    fn take(&mut self, id: Id) -> Result<Tensor> {
        self.0[id].take().ok_or_else(|| Error::Runtime("internal error: an activation without a gradient".into()))
    }
}

impl Tape {
    /// From d loss / d prediction (B, C, H, W) to the gradients of the weights, added to `grads` if there are any, and of the
    /// input if `input_wanted`. The tape stays as it is and can be walked again.
    pub fn backward(
        &self,
        weights: &Weights,
        d_prediction: &Tensor,
        grads: Option<&mut [Tensor]>,
        input_wanted: bool,
    ) -> Result<Option<Tensor>> {
        let _modes = (tch::no_grad_guard(), AutocastOff::new());
        let mut walk = Walk::new(self, weights, d_prediction, WeightGradients(grads), input_wanted)?;
        for entry in self.entries.iter().rev() {
            walk.step(entry)?;
        }
        walk.finish(self)
    }

    /// The gradients of the weights, each entry dropped once it is done with.
    pub fn consume(mut self, weights: &Weights, d_prediction: &Tensor, grads: &mut [Tensor]) -> Result<()> {
        let _modes = (tch::no_grad_guard(), AutocastOff::new());
        let mut walk = Walk::new(&self, weights, d_prediction, WeightGradients(Some(grads)), false)?;
        while let Some(entry) = self.entries.pop() {
            walk.step(&entry)?;
        }
        walk.finish(&self).map(|_| ())
    }

    fn time(&self) -> Result<&(Tensor, time::Saved)> {
        self.time.as_ref().ok_or_else(|| Error::Runtime("internal error: no time embedding was recorded".into()))
    }
}

struct Walk<'w> {
    weights: &'w Weights,
    table: Table,
    time: Tensor,
    d_time: Tensor,
    d_out: Option<Tensor>,
    grads: WeightGradients<'w>,
    input_wanted: bool,
}

impl<'w> Walk<'w> {
    fn new(
        tape: &Tape,
        weights: &'w Weights,
        d_prediction: &Tensor,
        grads: WeightGradients<'w>,
        input_wanted: bool,
    ) -> Result<Self> {
        let time = tape.time()?.0.shallow_clone();
        let table = Table((0..tape.activations).map(|_| None).collect());
        let d_out = Some(nhwc(&d_prediction.f_to_kind(weights.kind)?)?);
        Ok(Self { weights, table, d_time: time.f_zeros_like()?, time, d_out, grads, input_wanted })
    }

    fn step(&mut self, entry: &TapeEntry) -> Result<()> {
        let weights = self.weights;
        match entry {
            TapeEntry::Head { norm, conv, x, stats, active, from } => {
                let dy = self.d_out.take().ok_or_else(|| Error::Runtime("internal error: two heads".into()))?;
                let d_active = conv_backward_whole(weights, conv, active, &dy, &mut self.grads)?;
                let mut dx = x.f_empty_like()?;
                let input = Input { first: x, second: None, shift: None };
                let into = InputGradient { first: &mut dx, second: None, shift: None, add: false };
                norm_backward(weights, norm, SILU, input, stats, &d_active, into, &mut self.grads)?;
                self.table.add(*from, dx)
            }
            TapeEntry::Conv { conv, resize, x, from, to } => {
                let dy = self.table.take(*to)?;
                let wanted = *from != INPUT || self.input_wanted;
                match conv_backward(weights, conv, *resize, x, &dy, wanted, &mut self.grads)? {
                    Some(dx) => self.table.add(*from, dx),
                    None => Ok(()),
                }
            }
            TapeEntry::Attention { saved, from, to } => {
                let dy = self.table.take(*to)?;
                let dx = attention::backward(weights, saved, dy, &mut self.grads)?;
                self.table.add(*from, dx)
            }
            TapeEntry::Block { saved, from, skip, to } => {
                let dy = self.table.take(*to)?;
                let (dx, d_skip) = block::backward(weights, saved, &self.time, dy, &mut self.d_time, &mut self.grads)?;
                self.table.add(*from, dx)?;
                match (skip, d_skip) {
                    (Some(id), Some(d_skip)) => self.table.add(*id, d_skip),
                    _ => Ok(()),
                }
            }
        }
    }

    fn finish(mut self, tape: &Tape) -> Result<Option<Tensor>> {
        if self.grads.wanted() {
            let time = &self.weights.plan.time;
            time::backward(self.weights, time, &tape.time()?.1, &self.d_time, &mut self.grads)?;
        }
        if !self.input_wanted {
            return Ok(None);
        }
        Ok(Some(nchw(&self.table.take(INPUT)?)?.f_to_kind(Kind::Float)?.f_contiguous()?))
    }
}
