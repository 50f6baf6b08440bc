//! The residual block, forward and backward.

use tch::Tensor;

use super::conv::{conv_backward_whole, conv_forward, Resize};
use super::mask::Mask;
use super::modulation;
use super::ops::{linear, norm_backward, norm_forward, rows, sum_rows, After, Input, InputGradient, WeightGradients};
use super::weights::Weights;
use crate::error::Result;
use crate::libtorch::{add_product, product};
use crate::nn::blueprint::{Conv, ResBlock, TimeAddition};

/// What the backward pass needs.
pub struct Saved {
    layer: ResBlock,
    x: Tensor,
    /// The second half of the input's channels, on the way up.
    skip: Option<Tensor>,
    dropout: Option<Mask>,
    /// What the time embedding brings, (B, C) or (B, 2 C).
    numbers: Tensor,
    stats1: Tensor,
    hidden: Tensor,
    stats2: Tensor,
    /// What the two convolutions read: kept for the gradients of their weights.
    active: Option<[Tensor; 2]>,
}

const SILU: After = After { silu: true, dropout: None };

/// `time` is silu of the time embedding, (B, time_dim), float32; `dropout` a probability. `keep` says that the gradients of
/// the weights will be wanted.
pub fn forward(
    weights: &Weights,
    layer: &ResBlock,
    x: Tensor,
    skip: Option<Tensor>,
    time: &Tensor,
    dropout: f64,
    keep: bool,
) -> Result<(Tensor, Saved)> {
    let input = Input { first: &x, second: skip.as_ref(), shift: None };
    let (active1, stats1) = norm_forward(weights, &layer.norm1, SILU, input)?;
    let hidden = conv_forward(weights, &layer.conv1, Resize::Keep, &active1, None)?;
    let active1 = keep.then_some(active1);
    let (w, b) = (&weights.params[layer.time.param], &weights.params[layer.time.param + 1]);
    let numbers = linear(time, w, Some(b))?;
    let dropout = (dropout > 0.0).then(|| Mask::draw(dropout, &hidden)).transpose()?;
    let (active2, stats2) = second_norm(weights, layer, &hidden, &numbers, dropout.as_ref())?;
    let projected = layer.skip.as_ref().map(|conv| project(weights, conv, &x, skip.as_ref())).transpose()?;
    let residual = projected.as_ref().unwrap_or(&x);
    let y = conv_forward(weights, &layer.conv2, Resize::Keep, &active2, Some(residual))?;
    let active = active1.map(|active1| [active1, active2]);
    Ok((y, Saved { layer: layer.clone(), x, skip, dropout, numbers, stats1, hidden, stats2, active }))
}

/// The second normalisation with the time embedding, SiLU and dropout; also the groups' statistics.
fn second_norm(
    weights: &Weights,
    layer: &ResBlock,
    hidden: &Tensor,
    numbers: &Tensor,
    dropout: Option<&Mask>,
) -> Result<(Tensor, Tensor)> {
    match layer.addition {
        TimeAddition::Shift => {
            let input = Input { first: hidden, second: None, shift: Some(numbers) };
            norm_forward(weights, &layer.norm2, After { silu: true, dropout }, input)
        }
        TimeAddition::ScaleAndShift => modulation::forward(weights, &layer.norm2, hidden, numbers, dropout),
    }
}

/// The 1x1 convolution on the concatenation of `x` and `skip`, which is never made.
fn project(weights: &Weights, conv: &Conv, x: &Tensor, skip: Option<&Tensor>) -> Result<Tensor> {
    let (w1, w2) = halves(weights, conv, x, skip)?;
    let (b, h, w, _) = x.size4()?;
    let mut y = product(&rows(x)?, &w1.f_transpose(0, 1)?, Some(weights.compute(conv.param + 1)?))?;
    if let (Some(skip), Some(w2)) = (skip, w2) {
        add_product(&mut y, &rows(skip)?, &w2.f_transpose(0, 1)?)?;
    }
    Ok(y.f_view([b, h, w, conv.cout])?)
}

/// The weight of a 1x1 convolution as matrices (cout, channels of x) and (cout, channels of skip).
fn halves(weights: &Weights, conv: &Conv, x: &Tensor, skip: Option<&Tensor>) -> Result<(Tensor, Option<Tensor>)> {
    let whole = weights.compute(conv.param)?.f_view([conv.cout, conv.cin])?;
    let own = x.size4()?.3;
    let second = skip.map(|_| whole.f_narrow(1, own, conv.cin - own)).transpose()?;
    Ok((whole.f_narrow(1, 0, own)?, second))
}

/// From the gradient of the output to those of x and skip. Adds the weights' gradients to `grads` and, if those are wanted,
/// the time embedding's to `d_time`.
pub fn backward(
    weights: &Weights,
    saved: &Saved,
    time: &Tensor,
    dy: Tensor,
    d_time: &mut Tensor,
    grads: &mut WeightGradients,
) -> Result<(Tensor, Option<Tensor>)> {
    let Saved { layer, x, skip, stats1, active, .. } = saved;
    let [active1, active2] = match active {
        Some([first, second]) => [Some(first.shallow_clone()), Some(second.shallow_clone())],
        None => [None, None],
    };
    let d_active2 = conv_backward_whole(weights, &layer.conv2, &active2, &dy, grads)?;
    let (d_hidden, d_numbers) = second_norm_backward(weights, saved, &d_active2, grads)?;
    drop(d_active2);
    if grads.wanted() {
        grads.add(layer.time.param, &product(&d_numbers.f_transpose(0, 1)?, time, None)?)?;
        grads.add(layer.time.param + 1, &sum_rows(&d_numbers)?)?;
        add_product(d_time, &d_numbers, &weights.params[layer.time.param])?;
    }
    let d_active1 = conv_backward_whole(weights, &layer.conv1, &active1, &d_hidden, grads)?;
    drop(d_hidden);
    let (mut dx, mut d_skip) = match &layer.skip {
        Some(conv) => project_backward(weights, conv, x, skip.as_ref(), &dy, grads)?,
        None => (dy, None),
    };
    let input = Input { first: x, second: skip.as_ref(), shift: None };
    let into = InputGradient { first: &mut dx, second: d_skip.as_mut(), shift: None, add: true };
    norm_backward(weights, &layer.norm1, SILU, input, stats1, &d_active1, into, grads)?;
    Ok((dx, d_skip))
}

/// Gradients of [`second_norm`]: those of what the first convolution gave and of what the time embedding brought.
fn second_norm_backward(
    weights: &Weights,
    saved: &Saved,
    dy: &Tensor,
    grads: &mut WeightGradients,
) -> Result<(Tensor, Tensor)> {
    let Saved { layer, hidden, numbers, stats2, dropout, .. } = saved;
    if layer.addition == TimeAddition::ScaleAndShift {
        return modulation::backward(weights, &layer.norm2, hidden, numbers, dropout.as_ref(), stats2, dy, grads);
    }
    let (mut d_hidden, mut d_shift) = (hidden.f_empty_like()?, numbers.f_empty_like()?);
    let input = Input { first: hidden, second: None, shift: Some(numbers) };
    let into = InputGradient { first: &mut d_hidden, second: None, shift: Some(&mut d_shift), add: false };
    let after = After { silu: true, dropout: dropout.as_ref() };
    norm_backward(weights, &layer.norm2, after, input, stats2, dy, into, grads)?;
    Ok((d_hidden, d_shift))
}

fn project_backward(
    weights: &Weights,
    conv: &Conv,
    x: &Tensor,
    skip: Option<&Tensor>,
    dy: &Tensor,
    grads: &mut WeightGradients,
) -> Result<(Tensor, Option<Tensor>)> {
    let dy = rows(dy)?;
    let (w1, w2) = halves(weights, conv, x, skip)?;
    if grads.wanted() {
        let dy_t = dy.f_transpose(0, 1)?;
        let dw = match skip {
            Some(skip) => Tensor::f_cat(&[product(&dy_t, &rows(x)?, None)?, product(&dy_t, &rows(skip)?, None)?], 1)?,
            None => product(&dy_t, &rows(x)?, None)?,
        };
        grads.add(conv.param, &dw.f_view([conv.cout, conv.cin, 1, 1])?)?;
        grads.add(conv.param + 1, &sum_rows(&dy)?)?;
    }
    let dx = product(&dy, &w1, None)?.f_view(&x.size()[..])?;
    let d_skip = match (skip, w2) {
        (Some(skip), Some(w2)) => Some(product(&dy, &w2, None)?.f_view(&skip.size()[..])?),
        _ => None,
    };
    Ok((dx, d_skip))
}
