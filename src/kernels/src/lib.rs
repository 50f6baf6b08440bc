//! CPU kernels for training and sampling a diffusion UNet, on plain slices: no tensor library, no Python.
//!
//! Activations are NHWC, of f32 or [`half::bf16`]; arithmetic, statistics, parameters and their gradients are f32. Lengths
//! are checked at entry and misfits returned as [`error::Error`]; nothing panics. Work is handed to the caller's
//! threads through [`pool::Pool`]; results are bit for bit the same for any number of threads. The instruction set
//! (AVX-512, AVX2 with FMA, or whatever the compiler makes of plain loops) is chosen once at run time.
//!
//! What a layer reads is a [`source::Source`]: one tensor, or two concatenated on channels (`.concat`), plus a shift per
//! image and channel (`.shifted`, of shape (N, C)); neither the concatenation nor the sum is ever made.
//!
//! | function | what it computes |
//! |---|---|
//! | [`norm::forward`] | y = dropout(silu(GroupNorm(source))); writes y and each group's mean and rstd (N, groups) |
//! | [`norm::backward`] | from dy: dx of each part of the source (written, or added), dweight, dbias, dshift (all three written) |
//! | [`norm::dropout::draw`] | a mask of 0 and 1 from the numbers of a [`norm::dropout::Twister`], as torch draws it on the CPU |
//! | [`norm::dropout::channels_last`] | bytes (N, C, H, W) as (N, H, W, C) |
//! | [`attention::forward`] | from packed qkv (N, positions, 3 C): out (N, positions, C) and logsumexp (N, heads, positions), as torch's flash attention on the CPU gives them |
//! | [`attention::backward`] | from dout, qkv, out and logsumexp: dqkv (N, positions, 3 C), written |
//! | [`matrix::by_rows`] | y = a b^T (+ bias), or added to y, of matrices in bfloat16, in whole numbers of 16 bits |
//! | [`matrix::by_columns`] | y = a^T b of the same, in float32 (written) |
//! | [`optim::step`] | weights, both moments and EMA shadow after one AdamW step with `scale * gradient` |
//! | [`optim::sum_of_squares`] | sum of x^2 in f64; not finite exactly if some x is not |
//! | [`sum::add`], [`sum::rows`] | one buffer added to another; sums over the rows of a matrix (written) |
//! | [`conv::Filter::new`] | takes weights (O, I, 3, 3) for a [`conv::Method`]: F4 (stride 1), Upsample (nearest x2, then stride 1), Downsample (stride 2), all with padding 1 |
//! | [`conv::Filter::of_input_gradient`] | takes the same weights for the gradient of the output to the gradient of the (whole) input |
//! | [`conv::convolve`] | y = filter * source + bias(C) + residual(N, H, W, C), both addends optional |
//! | [`conv::weight_gradient`] | from the source and dy: dw (O, I, 3, 3) and, if asked for, dbias (both written) |
//! | [`conv::correlate::correlate`] | single-channel images, of f32 or f64, correlated with a small kernel |
//! | [`projector::Projector::forward`] | sinograms (N, angles, bins) of images (N, H, W), parallel or fan beam; f32 or f64 |
//! | [`projector::Projector::adjoint`] | its exact transpose |

#![forbid(unsafe_code)]

pub mod attention;
pub mod conv;
pub mod error;
pub mod matrix;
pub mod norm;
pub mod optim;
pub mod pool;
mod products;
pub mod projector;
pub mod simd;
pub mod source;
pub mod sum;
#[cfg(test)]
mod testing;

pub use products::pairs::{choose_whole, whole};
