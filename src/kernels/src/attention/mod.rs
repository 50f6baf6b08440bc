//! Multi-head self-attention over the positions of an image: softmax(q k^T / sqrt(d)) v, forward and backward.
//!
//! A block of queries meets all keys at once: the block's scores stay in the second-level cache, and the softmax needs
//! no running rescaling. Scores are kept in base 2, as powers of 2 are cheaper than those of e. In memory, a block of scores
//! is `[panel of 16 keys][query]`, a line holding the 16 keys.

mod backward;
mod forward;
mod meeting;
mod numbers;
#[cfg(test)]
mod tests;
mod whole;

pub use backward::backward;
pub use forward::forward;

use crate::error::{check_len, Error, Result};
use crate::simd::{Line, Simd, LANES};
use std::f32::consts::LOG2_E;

/// Sizes: (batch, positions, heads * width) for what goes in and out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    pub batch: usize,
    pub positions: usize,
    pub heads: usize,
    /// Channels of one head.
    pub width: usize,
}

impl Heads {
    pub fn channels(&self) -> usize {
        self.heads * self.width
    }

    fn check(&self, qkv: usize, out: usize, logsumexp: usize) -> Result {
        let positions = self.batch * self.positions;
        if positions * self.channels() == 0 {
            return Err(Error::misfit("batch, positions, heads and width must be at least 1"));
        }
        check_len("qkv", qkv, positions * 3 * self.channels())?;
        check_len("out", out, positions * self.channels())?;
        check_len("logsumexp", logsumexp, positions * self.heads)
    }

    /// Lines that hold the channels of one head.
    fn blocks(&self) -> usize {
        self.width.div_ceil(LANES)
    }

    /// Lines that hold one query's scores.
    fn panels(&self) -> usize {
        self.positions.div_ceil(LANES)
    }

    /// Queries in a block: few enough for their scores to stay in the second-level cache.
    fn block(&self) -> usize {
        (SCORES / (self.panels() * LANES)).clamp(12, MOST_ROWS)
    }

    /// 1 / sqrt(width).
    fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }

    /// What queries are multiplied with: 1 / sqrt(width), and the scores in base 2.
    fn factor(&self) -> f32 {
        LOG2_E / (self.width as f32).sqrt()
    }
}

/// Scores in a block, about.
const SCORES: usize = 32 * 1024;
const MOST_ROWS: usize = 48;

/// What is added to the last panel's scores, so that lanes beyond the last key count for nothing.
fn penalty(positions: usize) -> Line {
    let mut line = Line::ZERO;
    let keys = (positions - 1) % LANES + 1;
    line.0[keys..].fill(-1e30);
    line
}

/// 2^x to within 2 units in the last place for x in [-126, 127]; below, 2^-126; NaN stays NaN.
#[inline(always)]
fn exp2<S: Simd>(s: S, x: S::V) -> S::V {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves no room for a fraction
    #[allow(clippy::approx_constant)] // fitted on [-1/2, 1/2] for the least relative error, 9e-8
    const POLYNOMIAL: [f32; 5] = [1.326_472_5e-3, 9.671_513e-3, 5.550_733_6e-2, 2.402_224_2e-1, 6.931_47e-1];
    let x = s.max(s.splat(-126.0), x);
    let n = s.sub(s.add(x, s.splat(ROUND)), s.splat(ROUND));
    let r = s.sub(x, n);
    let mut p = s.splat(POLYNOMIAL[0]);
    for &c in &POLYNOMIAL[1..] {
        p = s.fma(p, r, s.splat(c));
    }
    s.mul(s.fma(p, r, s.splat(1.0)), s.pow2(n))
}
