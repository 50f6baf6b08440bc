//! The time embedding, forward and backward; small, and float32 whatever the rest computes in.

use tch::{Kind, Tensor};

use super::super::blueprint::UNet;
use super::super::embedding::sinusoidal;
use super::ops::add_to;
use super::weights::Weights;
use crate::error::Result;

/// What the backward pass needs: the embedding and what stands before each SiLU.
pub struct Saved {
    embedding: Tensor,
    hidden: Tensor,
    out: Tensor,
}

/// silu of the time embedding, (B, time_dim): what every block's projection reads.
pub fn forward(weights: &Weights, net: &UNet, t: &Tensor) -> Result<(Tensor, Saved)> {
    let linear = |param: usize, x: &Tensor| x.f_linear(&weights.params[param], Some(&weights.params[param + 1]));
    let embedding = sinusoidal(t, weights.plan.config.time_dim)?;
    let hidden = linear(net.time1.param, &embedding)?;
    let out = linear(net.time2.param, &hidden.f_silu()?)?;
    Ok((out.f_silu()?, Saved { embedding, hidden, out }))
}

/// Adds the gradients of both layers to `grads`.
pub fn backward(weights: &Weights, net: &UNet, saved: &Saved, dy: &Tensor, grads: &mut [Tensor]) -> Result<()> {
    let mut layer = |param: usize, x: &Tensor, dy: &Tensor| -> Result<()> {
        add_to(grads, param, &dy.f_transpose(0, 1)?.f_matmul(x)?)?;
        add_to(grads, param + 1, &dy.f_sum_dim_intlist([0i64].as_slice(), false, Kind::Float)?)
    };
    let d_out = saved.out.f_silu_backward(dy)?;
    layer(net.time2.param, &saved.hidden.f_silu()?, &d_out)?;
    let d_hidden = saved.hidden.f_silu_backward(&d_out.f_matmul(&weights.params[net.time2.param])?)?;
    layer(net.time1.param, &saved.embedding, &d_hidden)
}
