//! Minimal filtering (Winograd 1980; Lavin and Gray 2016) for filters of three taps, in one dimension: a window of inputs
//! becomes `P` points, each is multiplied with the filter's value at that point, and the products become `M` outputs.
//! In two dimensions rows and columns are transformed one after the other.
//!
//! Besides the plain filter there are schemes for the UNet's changes of resolution, each derived from its definition:
//! a filter after nearest-neighbour doubling, a filter of stride 2, and the gradients of both with respect to the input.

use crate::simd::Simd;
use std::f32::consts::{FRAC_1_SQRT_2, SQRT_2};

/// A one-dimensional scheme: windows of `W` inputs, `P` points, `M` outputs.
pub trait Scheme<const W: usize, const P: usize, const M: usize>: Sync {
    /// Inputs from one window to the next.
    const STEP: usize;
    /// Inputs before the first window's tile that the window starts at (zero padding).
    const BEFORE: usize;
    /// How many times the largest input each point can be.
    const REACH: [f32; P];
    /// The filter's values at the points, as combinations of its taps.
    const FILTER: [[f64; 3]; P];
    fn points<S: Simd>(s: S, d: [S::V; W]) -> [S::V; P];
    fn outputs<S: Simd>(s: S, m: [S::V; P]) -> [S::V; M];
    /// The transpose of `outputs`, which the weight gradient needs.
    fn spread<S: Simd>(s: S, y: [S::V; M]) -> [S::V; P];
}

/// F(4, 3): 6 products for 4 outputs. Points 0, +-sqrt(1/2), +-sqrt(2), infinity: with these the rounding error is about a
/// quarter of that with the usual 0, +-1, +-2.
pub struct F4;

impl Scheme<6, 6, 4> for F4 {
    const STEP: usize = 4;
    const BEFORE: usize = 1;
    const REACH: [f32; 6] = {
        let (near, far) = (3.0 + 3.0 * FRAC_1_SQRT_2, 1.5 + 1.5 * SQRT_2);
        [4.5, near, near, far, far, 4.5]
    };
    const FILTER: [[f64; 3]; 6] = {
        use std::f64::consts::{FRAC_1_SQRT_2, SQRT_2};
        [
            [1.0, 0.0, 0.0],
            [-2.0 / 3.0, -2.0 / 3.0 * FRAC_1_SQRT_2, -1.0 / 3.0],
            [-2.0 / 3.0, 2.0 / 3.0 * FRAC_1_SQRT_2, -1.0 / 3.0],
            [1.0 / 6.0, 1.0 / 6.0 * SQRT_2, 1.0 / 3.0],
            [1.0 / 6.0, -1.0 / 6.0 * SQRT_2, 1.0 / 3.0],
            [0.0, 0.0, 1.0],
        ]
    };

    #[inline(always)]
    fn points<S: Simd>(s: S, [d0, d1, d2, d3, d4, d5]: [S::V; 6]) -> [S::V; 6] {
        let c = |x| s.splat(x);
        let (near_even, near_odd) = (s.fma(d2, c(-2.0), d4), s.fma(d1, c(-2.0), d3));
        let (far_even, far_odd) = (s.fma(d2, c(-0.5), d4), s.fma(d1, c(-0.5), d3));
        [
            s.fma(d2, c(-2.5), s.add(d0, d4)),
            s.fma(near_odd, c(FRAC_1_SQRT_2), near_even),
            s.fma(near_odd, c(-FRAC_1_SQRT_2), near_even),
            s.fma(far_odd, c(SQRT_2), far_even),
            s.fma(far_odd, c(-SQRT_2), far_even),
            s.fma(d3, c(-2.5), s.add(d1, d5)),
        ]
    }
    #[inline(always)]
    fn outputs<S: Simd>(s: S, [m0, m1, m2, m3, m4, m5]: [S::V; 6]) -> [S::V; 4] {
        let c = |x| s.splat(x);
        let (near, far) = (s.add(m1, m2), s.add(m3, m4));
        let near_odd = s.mul(s.sub(m1, m2), c(FRAC_1_SQRT_2));
        let far_odd = s.mul(s.sub(m3, m4), c(SQRT_2));
        [
            s.add(m0, s.add(near, far)),
            s.add(near_odd, far_odd),
            s.fma(near, c(0.5), s.add(far, far)),
            s.fma(near_odd, c(0.5), s.fma(far_odd, c(2.0), m5)),
        ]
    }
    #[inline(always)]
    fn spread<S: Simd>(s: S, [y0, y1, y2, y3]: [S::V; 4]) -> [S::V; 6] {
        let c = |x| s.splat(x);
        let (near_even, far_even) = (s.fma(y2, c(0.5), y0), s.fma(y2, c(2.0), y0));
        let (near_odd, far_odd) = (s.fma(y3, c(0.5), y1), s.fma(y3, c(2.0), y1));
        [
            y0,
            s.fma(near_odd, c(FRAC_1_SQRT_2), near_even),
            s.fma(near_odd, c(-FRAC_1_SQRT_2), near_even),
            s.fma(far_odd, c(SQRT_2), far_even),
            s.fma(far_odd, c(-SQRT_2), far_even),
            y3,
        ]
    }
}

/// The filter after nearest-neighbour doubling: 3 products for 2 outputs. It is F(2, 3) on the window (a, b, b, c), whose
/// third point is always zero.
pub struct Up;

impl Scheme<3, 3, 2> for Up {
    const STEP: usize = 1;
    const BEFORE: usize = 1;
    const REACH: [f32; 3] = [2.0, 1.0, 2.0];
    const FILTER: [[f64; 3]; 3] = [[1.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 1.0]];

    #[inline(always)]
    fn points<S: Simd>(s: S, [a, b, c]: [S::V; 3]) -> [S::V; 3] {
        [s.sub(a, b), b, s.sub(c, b)]
    }
    #[inline(always)]
    fn outputs<S: Simd>(s: S, [m0, m1, m2]: [S::V; 3]) -> [S::V; 2] {
        [s.add(m0, m1), s.add(m1, m2)]
    }
    #[inline(always)]
    fn spread<S: Simd>(s: S, [y0, y1]: [S::V; 2]) -> [S::V; 3] {
        [y0, s.add(y0, y1), y1]
    }
}

/// The gradient of [`Up`] with respect to its input: 3 products for 1 output, from the window (y1 of the pixel before, y0
/// and y1 of the pixel, y0 of the next).
pub struct UpGradient;

impl Scheme<4, 3, 1> for UpGradient {
    const STEP: usize = 2;
    const BEFORE: usize = 1;
    const REACH: [f32; 3] = [2.0; 3];
    const FILTER: [[f64; 3]; 3] = Up::FILTER;

    #[inline(always)]
    fn points<S: Simd>(s: S, [d0, d1, d2, d3]: [S::V; 4]) -> [S::V; 3] {
        [s.sub(d3, d1), s.add(d1, d2), s.sub(d0, d2)]
    }
    #[inline(always)]
    fn outputs<S: Simd>(s: S, [m0, m1, m2]: [S::V; 3]) -> [S::V; 1] {
        [s.add(s.add(m0, m1), m2)]
    }
    #[inline(always)]
    fn spread<S: Simd>(_: S, [y]: [S::V; 1]) -> [S::V; 3] {
        [y; 3]
    }
}

/// The filter of stride 2 with `ZEROS` zeros before the input (1, or 0: then one comes after it): 5 products for 2 outputs.
/// The outer taps meet every other input only, where they are F(2, 2); the middle tap meets those between.
pub struct Down<const ZEROS: usize>;

impl<const ZEROS: usize> Scheme<5, 5, 2> for Down<ZEROS> {
    const STEP: usize = 4;
    const BEFORE: usize = ZEROS;
    const REACH: [f32; 5] = [2.0, 1.0, 2.0, 1.0, 1.0];
    const FILTER: [[f64; 3]; 5] = [[1.0, 0.0, 0.0], [1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]];

    #[inline(always)]
    fn points<S: Simd>(s: S, [d0, d1, d2, d3, d4]: [S::V; 5]) -> [S::V; 5] {
        [s.sub(d0, d2), d2, s.sub(d4, d2), d1, d3]
    }
    #[inline(always)]
    fn outputs<S: Simd>(s: S, [m0, m1, m2, m3, m4]: [S::V; 5]) -> [S::V; 2] {
        [s.add(s.add(m0, m1), m3), s.add(s.add(m1, m2), m4)]
    }
    #[inline(always)]
    fn spread<S: Simd>(s: S, [y0, y1]: [S::V; 2]) -> [S::V; 5] {
        [y0, s.add(y0, y1), y1, y0, y1]
    }
}

/// The gradient of [`Down<1>`] with respect to its input: 5 products for 4 outputs.
pub struct DownGradient;

impl Scheme<3, 5, 4> for DownGradient {
    const STEP: usize = 2;
    const BEFORE: usize = 0;
    const REACH: [f32; 5] = [2.0, 1.0, 2.0, 1.0, 1.0];
    const FILTER: [[f64; 3]; 5] = [[0.0, 0.0, 1.0], [1.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]];

    #[inline(always)]
    fn points<S: Simd>(s: S, [d0, d1, d2]: [S::V; 3]) -> [S::V; 5] {
        [s.sub(d0, d1), d1, s.sub(d2, d1), d0, d1]
    }
    #[inline(always)]
    fn outputs<S: Simd>(s: S, [m0, m1, m2, m3, m4]: [S::V; 5]) -> [S::V; 4] {
        [m3, s.add(m0, m1), m4, s.add(m1, m2)]
    }
    #[inline(always)]
    fn spread<S: Simd>(s: S, [y0, y1, y2, y3]: [S::V; 4]) -> [S::V; 5] {
        [y1, s.add(y1, y3), y3, y0, y2]
    }
}

/// The gradient of [`Down<0>`] with respect to its input: as [`DownGradient`], the outer taps and the middle one in turns.
pub struct DownAfterGradient;

impl Scheme<3, 5, 4> for DownAfterGradient {
    const STEP: usize = 2;
    const BEFORE: usize = 1;
    const REACH: [f32; 5] = [2.0, 1.0, 2.0, 1.0, 1.0];
    const FILTER: [[f64; 3]; 5] = DownGradient::FILTER;

    #[inline(always)]
    fn points<S: Simd>(s: S, [d0, d1, d2]: [S::V; 3]) -> [S::V; 5] {
        [s.sub(d0, d1), d1, s.sub(d2, d1), d1, d2]
    }
    #[inline(always)]
    fn outputs<S: Simd>(s: S, [m0, m1, m2, m3, m4]: [S::V; 5]) -> [S::V; 4] {
        [s.add(m0, m1), m3, s.add(m1, m2), m4]
    }
    #[inline(always)]
    fn spread<S: Simd>(s: S, [y0, y1, y2, y3]: [S::V; 4]) -> [S::V; 5] {
        [y0, s.add(y0, y2), y2, y1, y3]
    }
}
