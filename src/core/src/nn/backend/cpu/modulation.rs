//! norm(h) (1 + scale) + shift, then SiLU and dropout: the time embedding as a scale and a shift per image and channel.

use tch::{Kind, Tensor};

use super::mask::Mask;
use super::ops::{norm_backward, norm_forward, After, Input, InputGradient, WeightGradients};
use super::weights::Weights;
use crate::error::Result;
use crate::nn::blueprint::Norm;

const PLAIN: After = After { silu: false, dropout: None };

fn input(hidden: &Tensor) -> Input<'_> {
    Input { first: hidden, second: None, shift: None }
}

/// 1 + scale and shift, each (B, 1, 1, C), out of `numbers` (B, 2 C) and in the dtype of the images.
fn parts(numbers: &Tensor, kind: Kind) -> Result<[Tensor; 2]> {
    let numbers = numbers.f_unsqueeze(1)?.f_unsqueeze(1)?;
    let halves = numbers.f_chunk(2, -1)?;
    Ok([halves[0].f_add_scalar(1.0)?.f_to_kind(kind)?, halves[1].f_to_kind(kind)?])
}

/// What the second convolution reads, and the groups' statistics.
pub fn forward(
    weights: &Weights,
    norm: &Norm,
    hidden: &Tensor,
    numbers: &Tensor,
    dropout: Option<&Mask>,
) -> Result<(Tensor, Tensor)> {
    let (normed, stats) = norm_forward(weights, norm, PLAIN, input(hidden))?;
    let [scale, shift] = parts(numbers, weights.kind)?;
    let active = normed.f_mul(&scale)?.f_add(&shift)?.f_silu()?;
    match dropout {
        Some(mask) => Ok((mask.apply(&active)?, stats)),
        None => Ok((active, stats)),
    }
}

/// Gradients of [`forward`]: those of `hidden` and of `numbers`. The normalisation is computed again rather than kept.
pub fn backward(
    weights: &Weights,
    norm: &Norm,
    hidden: &Tensor,
    numbers: &Tensor,
    dropout: Option<&Mask>,
    stats: &Tensor,
    dy: &Tensor,
    grads: &mut WeightGradients,
) -> Result<(Tensor, Tensor)> {
    let (normed, _) = norm_forward(weights, norm, PLAIN, input(hidden))?;
    let [scale, shift] = parts(numbers, weights.kind)?;
    let dy = dropout.map_or_else(|| Ok(dy.shallow_clone()), |mask| mask.apply(dy))?;
    let d_scaled = normed.f_mul(&scale)?.f_add(&shift)?.f_silu_backward(&dy)?;
    let over_pixels = |x: &Tensor| x.f_sum_dim_intlist([1i64, 2].as_slice(), false, Kind::Float);
    let d_numbers = Tensor::f_cat(&[over_pixels(&d_scaled.f_mul(&normed)?)?, over_pixels(&d_scaled)?], 1)?;
    let mut d_hidden = hidden.f_empty_like()?;
    let into = InputGradient { first: &mut d_hidden, second: None, shift: None, add: false };
    norm_backward(weights, norm, PLAIN, input(hidden), stats, &d_scaled.f_mul(&scale)?, into, grads)?;
    Ok((d_hidden, d_numbers))
}
