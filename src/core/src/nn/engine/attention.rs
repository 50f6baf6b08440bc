//! Self-attention over the positions of an image, forward and backward.

use diffusion_kernels::attention::{self, Heads};
use half::bf16;
use tch::{Kind, Tensor};

use super::super::blueprint::Attention;
use super::ops::{linear_backward, linear_forward, norm_backward, norm_forward, After, Input, InputGradient};
use super::weights::Weights;
use crate::error::Result;
use crate::libtorch::{slice, slice_mut, Stored, TorchPool};

/// What the backward pass needs.
pub struct Saved {
    layer: Attention,
    x: Tensor,
    stats: Tensor,
    normed: Tensor,
    /// (B, N, 3 C)
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

pub fn forward(weights: &Weights, layer: &Attention, x: Tensor) -> Result<(Tensor, Saved)> {
    let (normed, stats) = norm_forward(weights, &layer.norm, After::default(), input(&x))?;
    let qkv = linear_forward(weights, layer.param, &normed)?;
    let heads = heads(layer, &x)?;
    let (out, logsumexp) = match weights.kind {
        Kind::BFloat16 => mix::<bf16>(heads, &qkv)?,
        _ => mix::<f32>(heads, &qkv)?,
    };
    let y = linear_forward(weights, layer.param + 2, &out)?.f_add_(&x)?;
    Ok((y, Saved { layer: *layer, x, stats, normed, qkv, out, logsumexp }))
}

/// From the gradient of the output to that of the input, in the same memory.
pub fn backward(weights: &Weights, saved: &Saved, dy: Tensor, grads: &mut [Tensor]) -> Result<Tensor> {
    let Saved { layer, x, stats, normed, qkv, out, logsumexp } = saved;
    let d_out = linear_backward(weights, layer.param + 2, out, &dy, grads)?;
    let heads = heads(layer, x)?;
    let d_qkv = match weights.kind {
        Kind::BFloat16 => mix_backward::<bf16>(heads, qkv, out, logsumexp, &d_out)?,
        _ => mix_backward::<f32>(heads, qkv, out, logsumexp, &d_out)?,
    };
    let d_normed = linear_backward(weights, layer.param, normed, &d_qkv, grads)?;
    let mut dx = dy;
    let into = InputGradient { first: &mut dx, second: None, shift: None, add: true };
    norm_backward(weights, &layer.norm, After::default(), input(x), stats, &d_normed, into, grads)?;
    Ok(dx)
}
