//! The layers of the engine, forward and backward, on NHWC tensors of float32 or bfloat16.

use diffusion_kernels::norm::{self, Gradients, GroupNorm, Target};
use diffusion_kernels::source::{Images, Source};
use diffusion_kernels::sum;
use half::bf16;
use tch::{Kind, Tensor};

use super::mask::Mask;
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::libtorch::{add_in_place, product, slice, slice_mut, Stored, TorchPool};
use crate::nn::blueprint::Norm;

/// NHWC memory seen as the NCHW tensor that libtorch's convolutions take.
pub fn nchw(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_permute([0, 3, 1, 2])?)
}

/// An NCHW tensor as dense NHWC memory: a view when it is channels-last already.
pub fn nhwc(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_permute([0, 2, 3, 1])?.f_contiguous()?)
}

/// All positions of all images as the rows of a matrix.
pub fn rows(x: &Tensor) -> Result<Tensor> {
    let channels = x.size().last().copied().unwrap_or(1);
    Ok(x.f_view([-1, channels])?)
}

/// The size of the images of an NHWC tensor.
pub fn images(x: &Tensor) -> Result<Images> {
    let (b, h, w, _) = x.size4()?;
    Ok(Images { batch: b as usize, height: h as usize, width: w as usize })
}

fn channels(x: &Tensor) -> Result<usize> {
    Ok(x.size4()?.3 as usize)
}

/// What a normalisation reads: one tensor or two side by side on channels, plus a shift per image and channel.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    pub first: &'a Tensor,
    pub second: Option<&'a Tensor>,
    pub shift: Option<&'a Tensor>,
}

impl<'a> Input<'a> {
    fn source<T: Stored>(&self) -> Result<(Images, Source<'a, T>)> {
        let mut source = Source::new(slice::<T>(self.first)?, channels(self.first)?);
        if let Some(second) = self.second {
            source = source.concat(slice::<T>(second)?, channels(second)?);
        }
        if let Some(shift) = self.shift {
            source = source.shifted(slice::<f32>(shift)?);
        }
        Ok((images(self.first)?, source))
    }
}

/// Activation after a normalisation.
#[derive(Clone, Copy, Default)]
pub struct After<'a> {
    pub silu: bool,
    pub dropout: Option<&'a Mask>,
}

fn layer<'a>(weights: &'a Weights, norm: &Norm, after: After<'a>) -> Result<GroupNorm<'a>> {
    Ok(GroupNorm {
        groups: norm.groups as usize,
        eps: norm.eps as f32,
        weight: slice::<f32>(&weights.params[norm.param])?,
        bias: slice::<f32>(&weights.params[norm.param + 1])?,
        silu: after.silu,
        dropout: after.dropout.map(Mask::dropout).transpose()?,
    })
}

/// Group normalisation and what follows it; also the groups' means and reciprocal deviations, (2, B, groups).
pub fn norm_forward(weights: &Weights, norm: &Norm, after: After, input: Input) -> Result<(Tensor, Tensor)> {
    match weights.kind {
        Kind::BFloat16 => norm_forward_of::<bf16>(weights, norm, after, input),
        _ => norm_forward_of::<f32>(weights, norm, after, input),
    }
}

fn norm_forward_of<T: Stored>(weights: &Weights, norm: &Norm, after: After, input: Input) -> Result<(Tensor, Tensor)> {
    let (images, source) = input.source::<T>()?;
    let (b, h, w, _) = input.first.size4()?;
    let device = input.first.device();
    let mut y = Tensor::f_empty([b, h, w, norm.channels], (T::KIND, device))?;
    let mut stats = Tensor::f_empty([2, b, norm.groups], (Kind::Float, device))?;
    let (mean, rstd) = slice_mut::<f32>(&mut stats)?.split_at_mut((b * norm.groups) as usize);
    norm::forward(&TorchPool, images, &source, &layer(weights, norm, after)?, slice_mut::<T>(&mut y)?, mean, rstd)?;
    Ok((y, stats))
}

/// Where the gradient of a normalisation's input goes: into `first` and `second`, added if `add`.
pub struct InputGradient<'a> {
    pub first: &'a mut Tensor,
    pub second: Option<&'a mut Tensor>,
    pub shift: Option<&'a mut Tensor>,
    pub add: bool,
}

/// Gradients of [`norm_forward`]: the input's where `into` says, the layer's added to `grads`.
pub fn norm_backward(
    weights: &Weights,
    norm: &Norm,
    after: After,
    input: Input,
    stats: &Tensor,
    dy: &Tensor,
    into: InputGradient,
    grads: &mut WeightGradients,
) -> Result<()> {
    match weights.kind {
        Kind::BFloat16 => norm_backward_of::<bf16>(weights, norm, after, input, stats, dy, into, grads),
        _ => norm_backward_of::<f32>(weights, norm, after, input, stats, dy, into, grads),
    }
}

fn norm_backward_of<T: Stored>(
    weights: &Weights,
    norm: &Norm,
    after: After,
    input: Input,
    stats: &Tensor,
    dy: &Tensor,
    into: InputGradient,
    grads: &mut WeightGradients,
) -> Result<()> {
    let (images, source) = input.source::<T>()?;
    let stats = slice::<f32>(stats)?.split_at(images.batch * norm.groups as usize);
    let mut d_layer = Tensor::f_empty([2, norm.channels], (Kind::Float, dy.device()))?;
    let (weight, bias) = slice_mut::<f32>(&mut d_layer)?.split_at_mut(norm.channels as usize);
    let InputGradient { first, second, shift, add } = into;
    let first = Target { data: slice_mut::<T>(first)?, add };
    let second = match second {
        Some(second) => Target { data: slice_mut::<T>(second)?, add },
        None => Target { data: &mut [], add },
    };
    let shift = shift.map(slice_mut::<f32>).transpose()?;
    let gradients = Gradients { parts: [first, second], weight, bias, shift };
    norm::backward(&TorchPool, images, &source, &layer(weights, norm, after)?, stats, slice::<T>(dy)?, gradients)?;
    grads.add(norm.param, &d_layer.f_get(0)?)?;
    grads.add(norm.param + 1, &d_layer.f_get(1)?)
}

/// Where the weights' gradients are added up, in state-dict order; nowhere if they are not wanted.
pub struct WeightGradients<'a>(pub Option<&'a mut [Tensor]>);

impl WeightGradients<'_> {
    pub fn wanted(&self) -> bool {
        self.0.is_some()
    }

    pub fn add(&mut self, index: usize, gradient: &Tensor) -> Result<()> {
        if let Some(sum) = self.0.as_mut().and_then(|grads| grads.get_mut(index)) {
            add_in_place(sum, gradient)?;
        }
        Ok(())
    }
}

/// What a layer kept for a gradient that was not wanted when the tape was made.
pub fn kept(activation: &Option<Tensor>) -> Result<&Tensor> {
    activation.as_ref().ok_or_else(|| Error::Runtime("the weights' gradients were not asked for".into()))
}

/// x W^T + b on the last dimension.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    times(x, &weight.f_transpose(0, 1)?, bias)
}

/// x W + b on the last dimension.
pub fn times(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let mut shape = x.size();
    if let Some(last) = shape.last_mut() {
        *last = weight.size2()?.1;
    }
    Ok(product(&rows(x)?, weight, bias)?.f_view(&shape[..])?)
}

/// x W^T + b on the last dimension; the weight stands at `param`, the bias behind it.
pub fn linear_forward(weights: &Weights, param: usize, x: &Tensor) -> Result<Tensor> {
    linear(x, weights.compute(param)?, Some(weights.compute(param + 1)?))
}

/// Gradients of [`linear_forward`]: the input's is returned, the layer's added to `grads`. `x` is read for the latter only.
pub fn linear_backward(
    weights: &Weights,
    param: usize,
    x: &Option<Tensor>,
    dy: &Tensor,
    grads: &mut WeightGradients,
) -> Result<Tensor> {
    if grads.wanted() {
        let dy_rows = rows(dy)?;
        grads.add(param, &product(&dy_rows.f_transpose(0, 1)?, &rows(kept(x)?)?, None)?)?;
        grads.add(param + 1, &sum_rows(&dy_rows)?)?;
    }
    times(dy, weights.compute(param)?, None)
}

/// The sum over the rows of a matrix, in float32.
pub fn sum_rows(x: &Tensor) -> Result<Tensor> {
    let mut sums = Tensor::f_empty([x.size2()?.1], (Kind::Float, x.device()))?;
    let out = slice_mut::<f32>(&mut sums)?;
    match x.f_kind()? {
        Kind::BFloat16 => sum::rows(&TorchPool, slice::<bf16>(x)?, out)?,
        _ => sum::rows(&TorchPool, slice::<f32>(x)?, out)?,
    }
    Ok(sums)
}
