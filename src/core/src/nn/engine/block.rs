//! The residual block, forward and backward.

use tch::{Kind, Tensor};

use super::super::blueprint::{Conv, ResBlock};
use super::conv::{conv_backward_whole, conv_forward, Resize};
use super::mask::Mask;
use super::ops::{add_to, norm_backward, norm_forward, rows, After, Input, InputGradient};
use super::weights::Weights;
use crate::error::Result;

/// What the backward pass needs.
pub struct Saved {
    layer: ResBlock,
    x: Tensor,
    /// The second half of the input's channels, on the way up.
    skip: Option<Tensor>,
    dropout: Option<Mask>,
    shift: Tensor,
    stats1: Tensor,
    active1: Tensor,
    hidden: Tensor,
    stats2: Tensor,
    active2: Tensor,
}

const SILU: After = After { silu: true, dropout: None };

/// `time` is silu of the time embedding, (B, time_dim), float32; `dropout` a probability.
pub fn forward(
    weights: &Weights,
    layer: &ResBlock,
    x: Tensor,
    skip: Option<Tensor>,
    time: &Tensor,
    dropout: f64,
) -> Result<(Tensor, Saved)> {
    let input = Input { first: &x, second: skip.as_ref(), shift: None };
    let (active1, stats1) = norm_forward(weights, &layer.norm1, SILU, input)?;
    let hidden = conv_forward(weights, &layer.conv1, Resize::Keep, &active1, None)?;
    let (w, b) = (&weights.params[layer.time.param], &weights.params[layer.time.param + 1]);
    let shift = time.f_linear(w, Some(b))?;
    let input = Input { first: &hidden, second: None, shift: Some(&shift) };
    let dropout = (dropout > 0.0).then(|| Mask::draw(dropout, &hidden)).transpose()?;
    let after = After { silu: true, dropout: dropout.as_ref() };
    let (active2, stats2) = norm_forward(weights, &layer.norm2, after, input)?;
    let projected = layer.skip.as_ref().map(|conv| project(weights, conv, &x, skip.as_ref())).transpose()?;
    let residual = projected.as_ref().unwrap_or(&x);
    let y = conv_forward(weights, &layer.conv2, Resize::Keep, &active2, Some(residual))?;
    let saved = Saved { layer: layer.clone(), x, skip, dropout, shift, stats1, active1, hidden, stats2, active2 };
    Ok((y, saved))
}

/// The 1x1 convolution on the concatenation of `x` and `skip`, which is never made.
fn project(weights: &Weights, conv: &Conv, x: &Tensor, skip: Option<&Tensor>) -> Result<Tensor> {
    let (w1, w2) = halves(weights, conv, x, skip)?;
    let (b, h, w, _) = x.size4()?;
    let mut y = rows(x)?.f_linear(&w1, Some(&weights.compute[conv.param + 1]))?;
    if let (Some(skip), Some(w2)) = (skip, w2) {
        y = y.f_addmm_(&rows(skip)?, &w2.f_transpose(0, 1)?)?;
    }
    Ok(y.f_view([b, h, w, conv.cout])?)
}

/// The weight of a 1x1 convolution as matrices (cout, channels of x) and (cout, channels of skip).
fn halves(weights: &Weights, conv: &Conv, x: &Tensor, skip: Option<&Tensor>) -> Result<(Tensor, Option<Tensor>)> {
    let whole = weights.compute[conv.param].f_view([conv.cout, conv.cin])?;
    let own = x.size4()?.3;
    let second = skip.map(|_| whole.f_narrow(1, own, conv.cin - own)).transpose()?;
    Ok((whole.f_narrow(1, 0, own)?, second))
}

/// From the gradient of the output to those of x and skip. Adds the weights' gradients to `grads` and the time
/// embedding's to `d_time`.
pub fn backward(
    weights: &Weights,
    saved: &Saved,
    time: &Tensor,
    dy: Tensor,
    d_time: &mut Tensor,
    grads: &mut [Tensor],
) -> Result<(Tensor, Option<Tensor>)> {
    let Saved { layer, x, skip, dropout, shift, stats1, active1, hidden, stats2, active2 } = saved;
    let d_active2 = conv_backward_whole(weights, &layer.conv2, active2, &dy, grads)?;

    let mut d_hidden = hidden.f_empty_like()?;
    let mut d_shift = shift.f_empty_like()?;
    let input = Input { first: hidden, second: None, shift: Some(shift) };
    let into = InputGradient { first: &mut d_hidden, second: None, shift: Some(&mut d_shift), add: false };
    let after = After { silu: true, dropout: dropout.as_ref() };
    norm_backward(weights, &layer.norm2, after, input, stats2, &d_active2, into, grads)?;
    drop(d_active2);
    add_to(grads, layer.time.param, &d_shift.f_transpose(0, 1)?.f_matmul(time)?)?;
    add_to(grads, layer.time.param + 1, &d_shift.f_sum_dim_intlist([0i64].as_slice(), false, Kind::Float)?)?;
    let _ = d_time.f_addmm_(&d_shift, &weights.params[layer.time.param])?;

    let d_active1 = conv_backward_whole(weights, &layer.conv1, active1, &d_hidden, grads)?;
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

fn project_backward(
    weights: &Weights,
    conv: &Conv,
    x: &Tensor,
    skip: Option<&Tensor>,
    dy: &Tensor,
    grads: &mut [Tensor],
) -> Result<(Tensor, Option<Tensor>)> {
    let dy = rows(dy)?;
    let dy_t = dy.f_transpose(0, 1)?;
    let (w1, w2) = halves(weights, conv, x, skip)?;
    let dw = match skip {
        Some(skip) => Tensor::f_cat(&[dy_t.f_matmul(&rows(x)?)?, dy_t.f_matmul(&rows(skip)?)?], 1)?,
        None => dy_t.f_matmul(&rows(x)?)?,
    };
    add_to(grads, conv.param, &dw.f_view([conv.cout, conv.cin, 1, 1])?)?;
    add_to(grads, conv.param + 1, &dy.f_sum_dim_intlist([0i64].as_slice(), false, Kind::Float)?)?;
    let dx = dy.f_matmul(&w1)?.f_view(&x.size()[..])?;
    let d_skip = match (skip, w2) {
        (Some(skip), Some(w2)) => Some(dy.f_matmul(&w2)?.f_view(&skip.size()[..])?),
        _ => None,
    };
    Ok((dx, d_skip))
}
