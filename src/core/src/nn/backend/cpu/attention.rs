//! Self-attention over the positions of an image, forward and backward.

use diffusion_kernels::attention::{self, Heads};
use half::bf16;
use tch::{Kind, Tensor};

use super::ops::{
    kept, linear, linear_backward, linear_forward, norm_backward, norm_forward, rows, sum_rows, times, After, Input,
    InputGradient, WeightGradients,
};
use super::weights::Weights;
use crate::error::Result;
use crate::libtorch::{add_in_place, product, slice, slice_mut, Stored, TorchPool};
use crate::nn::blueprint::{Attention, Projections};

/// What the backward pass needs.
pub struct Saved {
    layer: Attention,
    x: Tensor,
    /// Of the normalisation, if there is one.
    stats: Option<Tensor>,
    /// What the projections read: kept for the gradients of their weights.
    normed: Option<Tensor>,
    /// (B, H, W, 3 C)
    qkv: Tensor,
    /// (B, H, W, C)
    out: Tensor,
    /// (B, heads, N)
    logsumexp: Tensor,
}

fn input(x: &Tensor) -> Input<'_> {
    Input { first: x, second: None, shift: None }
}

/// The sizes of `layer` on images x (B, H, W, C).
fn heads(layer: &Attention, x: &Tensor) -> Result<Heads> {
    let (b, h, w, c) = x.size4()?;
    let (batch, positions) = (b as usize, (h * w) as usize);
    Ok(Heads { batch, positions, heads: layer.heads as usize, width: (c / layer.heads) as usize })
}

/// softmax(q k^T / sqrt(d)) v and the logarithms of the denominators, from qkv (B, H, W, 3 C).
fn mix<T: Stored>(heads: Heads, qkv: &Tensor) -> Result<(Tensor, Tensor)> {
    let (b, h, w, channels) = qkv.size4()?;
    let mut out = Tensor::f_empty([b, h, w, channels / 3], (T::KIND, qkv.device()))?;
    let mut logsumexp = Tensor::f_empty([b, heads.heads as i64, h * w], (Kind::Float, qkv.device()))?;
    let sums = slice_mut::<f32>(&mut logsumexp)?;
    attention::forward(&TorchPool, heads, slice::<T>(qkv)?, slice_mut::<T>(&mut out)?, sums)?;
    Ok((out, logsumexp))
}

fn mix_backward<T: Stored>(heads: Heads, qkv: &Tensor, out: &Tensor, sums: &Tensor, d_out: &Tensor) -> Result<Tensor> {
    let mut d_qkv = qkv.f_empty_like()?;
    let forward = (slice::<T>(out)?, slice::<f32>(sums)?);
    let into = slice_mut::<T>(&mut d_qkv)?;
    attention::backward(&TorchPool, heads, slice::<T>(qkv)?, forward, slice::<T>(d_out)?, into)?;
    Ok(d_qkv)
}

/// Weight and bias of the three projections as one: (3 C, C) and (3 C).
fn joined(weights: &Weights, places: [usize; 3]) -> Result<(Tensor, Tensor)> {
    let of = |step: usize| places.iter().map(|param| weights.compute(param + step)).collect::<Result<Vec<_>>>();
    Ok((Tensor::f_cat(&of(0)?, 0)?, Tensor::f_cat(&of(1)?, 0)?))
}

/// Queries, keys and values side by side, (B, H, W, 3 C).
fn project(weights: &Weights, projections: Projections, x: &Tensor) -> Result<Tensor> {
    match projections {
        Projections::Packed(param) => linear_forward(weights, param, x),
        Projections::Separate(places) => {
            let (weight, bias) = joined(weights, places)?;
            linear(x, &weight, Some(&bias))
        }
    }
}

fn project_backward(
    weights: &Weights,
    projections: Projections,
    x: &Option<Tensor>,
    dy: &Tensor,
    grads: &mut WeightGradients,
) -> Result<Tensor> {
    let places = match projections {
        Projections::Packed(param) => return linear_backward(weights, param, x, dy, grads),
        Projections::Separate(places) => places,
    };
    if grads.wanted() {
        let dy = rows(dy)?;
        let dw = product(&dy.f_transpose(0, 1)?, &rows(kept(x)?)?, None)?.f_chunk(3, 0)?;
        let db = sum_rows(&dy)?.f_chunk(3, 0)?;
        for (param, (dw, db)) in places.into_iter().zip(dw.iter().zip(&db)) {
            grads.add(param, dw)?;
            grads.add(param + 1, db)?;
        }
    }
    times(dy, &joined(weights, places)?.0, None)
}

/// `keep` says that the gradients of the weights will be wanted.
pub fn forward(weights: &Weights, layer: &Attention, x: Tensor, keep: bool) -> Result<(Tensor, Saved)> {
    let (normed, stats) = match &layer.norm {
        Some(norm) => {
            let (normed, stats) = norm_forward(weights, norm, After::default(), input(&x))?;
            (normed, Some(stats))
        }
        None => (x.shallow_clone(), None),
    };
    let qkv = project(weights, layer.projections, &normed)?;
    let normed = keep.then_some(normed);
    let heads = heads(layer, &x)?;
    let (out, logsumexp) = match weights.kind {
        Kind::BFloat16 => mix::<bf16>(heads, &qkv)?,
        _ => mix::<f32>(heads, &qkv)?,
    };
    let y = linear_forward(weights, layer.out, &out)?;
    add_in_place(&y, &x)?;
    Ok((y, Saved { layer: layer.clone(), x, stats, normed, qkv, out, logsumexp }))
}

/// From the gradient of the output to that of the input, in the same memory.
pub fn backward(weights: &Weights, saved: &Saved, dy: Tensor, grads: &mut WeightGradients) -> Result<Tensor> {
    let Saved { layer, x, stats, normed, qkv, out, logsumexp } = saved;
    let d_out = linear_backward(weights, layer.out, &Some(out.shallow_clone()), &dy, grads)?;
    let heads = heads(layer, x)?;
    let d_qkv = match weights.kind {
        Kind::BFloat16 => mix_backward::<bf16>(heads, qkv, out, logsumexp, &d_out)?,
        _ => mix_backward::<f32>(heads, qkv, out, logsumexp, &d_out)?,
    };
    let d_normed = project_backward(weights, layer.projections, normed, &d_qkv, grads)?;
    let mut dx = dy;
    match (&layer.norm, stats) {
        (Some(norm), Some(stats)) => {
            let into = InputGradient { first: &mut dx, second: None, shift: None, add: true };
            norm_backward(weights, norm, After::default(), input(x), stats, &d_normed, into, grads)?;
        }
        _ => add_in_place(&dx, &d_normed)?,
    }
    Ok(dx)
}
