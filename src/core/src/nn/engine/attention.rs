//! Self-attention over the positions of an image, forward and backward.

use tch::Tensor;

use super::super::blueprint::Attention;
use super::ops::{linear_backward, linear_forward, norm_backward, norm_forward, After, Input, InputGradient};
use super::weights::Weights;
use crate::error::Result;

/// What the backward pass needs.
pub struct Saved {
    layer: Attention,
    x: Tensor,
    stats: Tensor,
    normed: Tensor,
    /// (B, N, 3 C)
    qkv: Tensor,
    /// (B, heads, N, d), in the memory order of (B, N, C)
    out: Tensor,
    logsumexp: Tensor,
}

fn input(x: &Tensor) -> Input<'_> {
    Input { first: x, second: None, shift: None }
}

/// q, k and v as (B, heads, N, d) views of (B, N, 3 C).
fn split(qkv: &Tensor, heads: i64) -> Result<[Tensor; 3]> {
    let (b, n, channels) = qkv.size3()?;
    let parts = qkv.f_view([b, n, 3, heads, channels / (3 * heads)])?.f_permute([2, 0, 3, 1, 4])?;
    Ok([parts.f_get(0)?, parts.f_get(1)?, parts.f_get(2)?])
}

pub fn forward(weights: &Weights, layer: &Attention, x: Tensor) -> Result<(Tensor, Saved)> {
    let (b, h, w, c) = x.size4()?;
    let (normed, stats) = norm_forward(weights, &layer.norm, After::default(), input(&x))?;
    let qkv = linear_forward(weights, layer.param, &normed.f_view([b, h * w, c])?)?;
    let [q, k, v] = split(&qkv, layer.heads)?;
    let (out, logsumexp) = Tensor::f_internal_scaled_dot_product_flash_attention_for_cpu(
        &q,
        &k,
        &v,
        0.0,
        false,
        None::<&Tensor>,
        None::<f64>,
    )?;
    let merged = out.f_transpose(1, 2)?.f_reshape([b, h, w, c])?;
    let y = linear_forward(weights, layer.param + 2, &merged)?.f_add_(&x)?;
    Ok((y, Saved { layer: *layer, x, stats, normed, qkv, out, logsumexp }))
}

/// From the gradient of the output to that of the input, in the same memory.
pub fn backward(weights: &Weights, saved: &Saved, dy: Tensor, grads: &mut [Tensor]) -> Result<Tensor> {
    let Saved { layer, x, stats, normed, qkv, out, logsumexp } = saved;
    let (b, h, w, c) = x.size4()?;
    let merged = out.f_transpose(1, 2)?.f_reshape([b, h, w, c])?;
    let d_merged = linear_backward(weights, layer.param + 2, &merged, &dy, grads)?;
    let d_out = d_merged.f_view([b, h * w, layer.heads, c / layer.heads])?.f_transpose(1, 2)?;
    let [q, k, v] = split(qkv, layer.heads)?;
    let (dq, dk, dv) = Tensor::f_internal_scaled_dot_product_flash_attention_for_cpu_backward(
        &d_out,
        &q,
        &k,
        &v,
        out,
        logsumexp,
        0.0,
        false,
        None::<&Tensor>,
        None::<f64>,
    )?;
    let d_qkv = Tensor::f_empty(qkv.size(), (qkv.f_kind()?, qkv.device()))?;
    for (mut part, gradient) in split(&d_qkv, layer.heads)?.into_iter().zip([dq, dk, dv]) {
        part.f_copy_(&gradient)?;
    }
    let d_normed = linear_backward(weights, layer.param, normed, &d_qkv, grads)?;
    let mut dx = dy;
    let into = InputGradient { first: &mut dx, second: None, shift: None, add: true };
    norm_backward(weights, &layer.norm, After::default(), input(x), stats, &d_normed, into, grads)?;
    Ok(dx)
}
