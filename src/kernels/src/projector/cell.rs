//! What one place of a line holds: the pixels of several images there, or of one.

#![allow(clippy::needless_range_loop)] // the indices are the formulas'

use super::weights::{Block, Scalar, Table};
use crate::simd::{Line, Simd, LANES};

/// Numbers that the projector computes in.
pub trait Real: Scalar {
    /// One image.
    type Single: Cell<Number = Self>;
    /// Some.
    type Few: Cell<Number = Self>;
    /// Many.
    type Batch: Cell<Number = Self>;
}

impl Real for f32 {
    type Single = f32;
    type Few = HalfLine;
    type Batch = Line;
}

impl Real for f64 {
    type Single = f64;
    type Few = f64;
    type Batch = f64;
}

/// The images' numbers at one place, side by side.
pub trait Cell: Copy + Send + Sync + 'static {
    type Number: Real;
    const IMAGES: usize;
    const ZERO: Self;
    /// Places behind the margin of each line: one, or as many as are read or written at once.
    const BEHIND: usize;
    fn numbers(&self) -> &[Self::Number];
    fn numbers_mut(&mut self) -> &mut [Self::Number];

    /// While it is added up.
    type Sum<S: Simd>: Copy;
    fn load<S: Simd>(s: S, from: &Self) -> Self::Sum<S>;
    fn store<S: Simd>(s: S, to: &mut Self, sum: Self::Sum<S>);
    /// sum + weight x.
    fn plus<S: Simd>(s: S, sum: Self::Sum<S>, weight: Self::Number, x: &Self) -> Self::Sum<S>;

    /// The one loop: to[k] += sum over the lines and taps of weight[k] * from[first[k] + tap].
    #[inline(always)]
    fn gather<S: Simd, const N: usize>(s: S, table: &Table<Self::Number, N>, from: &[Self], to: &mut [Self]) {
        match table.taps() {
            2 => gather_images(s, table, 2, from, to),
            taps => gather_images(s, table, taps, from, to),
        }
    }
}

/// Always inlined, so that it is compiled anew for taps that are known.
#[inline(always)]
fn gather_images<S: Simd, C: Cell, const N: usize>(
    s: S,
    table: &Table<C::Number, N>,
    taps: usize,
    from: &[C],
    to: &mut [C],
) {
    let to = to[..table.targets()].chunks_mut(LANES);
    for (Block { first, weights }, to) in table.blocks(taps).zip(to) {
        for (lane, to) in to.iter_mut().enumerate().take(LANES) {
            let mut sum = C::load(s, to);
            for i in 0..N {
                let start = first[i][lane] as usize;
                let sources = &from[start..start + taps];
                for tap in 0..taps {
                    sum = C::plus(s, sum, weights[i * taps + tap][lane], &sources[tap]);
                }
            }
            C::store(s, to, sum);
        }
    }
}

/// An array of numbers as the cell of as many images; how they are added up is left to say.
macro_rules! several_images {
    ($count:expr) => {
        type Number = f32;
        const IMAGES: usize = $count;
        const ZERO: Self = Self([0.0; $count]);
        const BEHIND: usize = 1;
        #[inline(always)]
        fn numbers(&self) -> &[f32] {
            &self.0
        }
        #[inline(always)]
        fn numbers_mut(&mut self) -> &mut [f32] {
            &mut self.0
        }
    };
}

/// 16 images in float32.
impl Cell for Line {
    several_images!(LANES);
    type Sum<S: Simd> = S::V;
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &Self) -> S::V {
        s.load(&from.0)
    }
    #[inline(always)]
    fn store<S: Simd>(s: S, to: &mut Self, sum: S::V) {
        s.store(&mut to.0, sum);
    }
    #[inline(always)]
    fn plus<S: Simd>(s: S, sum: S::V, weight: f32, x: &Self) -> S::V {
        s.fma(s.splat(weight), s.load(&x.0), sum)
    }
}

/// Half of a line.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub struct HalfLine([f32; LANES / 2]);

/// 8 images in float32.
impl Cell for HalfLine {
    several_images!(LANES / 2);
    type Sum<S: Simd> = [f32; LANES / 2];
    #[inline(always)]
    fn load<S: Simd>(_s: S, from: &Self) -> [f32; LANES / 2] {
        from.0
    }
    #[inline(always)]
    fn store<S: Simd>(_s: S, to: &mut Self, sum: [f32; LANES / 2]) {
        to.0 = sum;
    }
    #[inline(always)]
    fn plus<S: Simd>(s: S, sum: [f32; LANES / 2], weight: f32, x: &Self) -> [f32; LANES / 2] {
        s.fma_half(weight, x.0, sum)
    }
}

/// A number as the cell of one image; how many places are read at once is left to say.
macro_rules! one_image {
    ($number:ty) => {
        type Number = $number;
        type Sum<S: Simd> = Self;
        const IMAGES: usize = 1;
        const ZERO: Self = 0.0;
        #[inline(always)]
        fn numbers(&self) -> &[$number] {
            std::slice::from_ref(self)
        }
        #[inline(always)]
        fn numbers_mut(&mut self) -> &mut [$number] {
            std::slice::from_mut(self)
        }
        #[inline(always)]
        fn load<S: Simd>(_s: S, from: &Self) -> Self {
            *from
        }
        #[inline(always)]
        fn store<S: Simd>(_s: S, to: &mut Self, sum: Self) {
            *to = sum;
        }
        #[inline(always)]
        fn plus<S: Simd>(_s: S, sum: Self, weight: $number, x: &Self) -> Self {
            sum + weight * x
        }
    };
}

/// One image in float64.
impl Cell for f64 {
    one_image!(f64);
    const BEHIND: usize = 1;
}

/// One image in float32: 16 targets side by side instead.
impl Cell for f32 {
    one_image!(f32);
    const BEHIND: usize = 2 * LANES;

    #[inline(always)]
    fn gather<S: Simd, const N: usize>(s: S, table: &Table<f32, N>, from: &[f32], to: &mut [f32]) {
        match table.taps() {
            2 => gather_targets(s, table, 2, from, to),
            taps => gather_targets(s, table, taps, from, to),
        }
    }
}

#[inline(always)]
fn gather_targets<S: Simd, const N: usize>(s: S, table: &Table<f32, N>, taps: usize, from: &[f32], to: &mut [f32]) {
    for (Block { first, weights }, to) in table.blocks(taps).zip(to.as_chunks_mut::<LANES>().0) {
        let mut sum = s.load(to);
        for (first, weights) in first.iter().zip(weights.chunks_exact(taps)) {
            sum = gather_block(s, first, weights, from, sum);
        }
        s.store(to, sum);
    }
}

/// 16 targets, whose sources ascend or descend and lie side by side as a rule.
#[inline(always)]
fn gather_block<S: Simd>(s: S, first: &[u32; LANES], weights: &[[f32; LANES]], from: &[f32], mut sum: S::V) -> S::V {
    let (a, b) = (first[0] as usize, first[LANES - 1] as usize);
    let (start, end) = (a.min(b), a.max(b) + weights.len());
    let window = from.get(start..).and_then(<[f32]>::first_chunk).filter(|window| end - start <= window.len());
    for (tap, weights) in weights.iter().enumerate() {
        let x = if let Some(window) = window {
            s.lookup(window, first, start.wrapping_sub(tap) as u32)
        } else {
            let mut x = [0.0; LANES];
            for lane in 0..LANES {
                x[lane] = from[first[lane] as usize + tap];
            }
            s.load(&x)
        };
        sum = s.fma(s.load(weights), x, sum);
    }
    sum
}
