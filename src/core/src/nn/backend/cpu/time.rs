//! The time embedding, forward and backward; small, and float32 whatever the rest computes in.

use tch::Tensor;

use super::ops::{linear, sum_rows, times, WeightGradients};
use super::weights::Weights;
use crate::error::Result;
use crate::libtorch::product;
use crate::nn::blueprint::TimeEmbedding;
use crate::nn::embedding::sinusoidal;

/// What the backward pass needs: the sinusoids and what stands before each SiLU.
pub struct Saved {
    sinusoids: Tensor,
    hidden: Tensor,
    out: Tensor,
}

/// silu of the time embedding, (B, time_dim): what every block's projection reads.
pub fn forward(weights: &Weights, time: &TimeEmbedding, t: &Tensor) -> Result<(Tensor, Saved)> {
    let layer = |param: usize, x: &Tensor| linear(x, &weights.params[param], Some(&weights.params[param + 1]));
    let sinusoids = sinusoidal(time, t)?;
    let hidden = layer(time.first.param, &sinusoids)?;
    let out = layer(time.second.param, &hidden.f_silu()?)?;
    Ok((out.f_silu()?, Saved { sinusoids, hidden, out }))
}

/// Adds the gradients of both layers to `grads`.
pub fn backward(
    weights: &Weights,
    time: &TimeEmbedding,
    saved: &Saved,
    dy: &Tensor,
    grads: &mut WeightGradients,
) -> Result<()> {
    let mut layer = |param: usize, x: &Tensor, dy: &Tensor| -> Result<()> {
        grads.add(param, &product(&dy.f_transpose(0, 1)?, x, None)?)?;
        grads.add(param + 1, &sum_rows(dy)?)
    };
    let d_out = saved.out.f_silu_backward(dy)?;
    layer(time.second.param, &saved.hidden.f_silu()?, &d_out)?;
    let d_hidden = saved.hidden.f_silu_backward(&times(&d_out, &weights.params[time.second.param], None)?)?;
    layer(time.first.param, &saved.sinusoids, &d_hidden)
}
