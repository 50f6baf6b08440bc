//! The weights of one line and one view, seen from the bins or from the pixels.

#![allow(clippy::needless_range_loop)] // plain loops of a fixed length are those that compilers vectorise

use std::ops::{Add, Mul, Range, Sub};

use super::view::{AnyRays, Rays};
use crate::error::Result;
use crate::pool::scratch::filled;
use crate::simd::LANES;

/// What weights are computed in.
pub trait Scalar:
    Copy + Default + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Send + Sync + 'static
{
    const ZERO: Self;
    const ONE: Self;
    fn from_f64(x: f64) -> Self;
}

impl Scalar for f32 {
    const ZERO: f32 = 0.0;
    const ONE: f32 = 1.0;
    #[inline(always)]
    fn from_f64(x: f64) -> f32 {
        x as f32
    }
}

impl Scalar for f64 {
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;
    #[inline(always)]
    fn from_f64(x: f64) -> f64 {
        x
    }
}

/// `x`, at least 0 and at most `most`; 0 if it is no number.
#[inline(always)]
fn within(x: f64, most: f64) -> f64 {
    let x = if x > 0.0 { x } else { 0.0 };
    if x < most {
        x
    } else {
        most
    }
}

/// An integer next to `x`, which is at least 0, as a number and as an index. In arithmetic that every register can do: from
/// 2^52 on float64 has no fractions, and the last bits of what it stores are the integer's.
#[inline(always)]
fn rounded(x: f64) -> (f64, u32) {
    const SHIFT: f64 = (1u64 << 52) as f64;
    let shifted = x + SHIFT;
    (shifted - SHIFT, shifted.to_bits() as u32)
}

/// Zeros at either end of a line of pixels.
pub const MARGIN: usize = 2;

/// For each target k the sources first[k] .. first[k] + taps on each of `N` lines, with a weight each.
pub struct Table<T, const N: usize> {
    /// (blocks, N), 16 targets each
    first: Vec<[u32; LANES]>,
    /// (blocks, N, taps)
    weights: Vec<[T; LANES]>,
    taps: usize,
    targets: usize,
    /// From the first of one line's sources to the next line's.
    stride: usize,
    /// Of all targets in a row, the first source on one line, and the weight of one tap.
    row: (Vec<u32>, Vec<T>),
}

/// 16 targets of a table.
pub struct Block<'a, T, const N: usize> {
    pub first: &'a [[u32; LANES]; N],
    /// (N, taps)
    pub weights: &'a [[T; LANES]],
}

impl<T: Scalar, const N: usize> Table<T, N> {
    /// For up to `room` targets.
    pub fn new(taps: usize, room: usize, stride: usize) -> Result<Self> {
        let blocks = room.div_ceil(LANES);
        Ok(Table {
            first: filled([0; LANES], blocks * N)?,
            weights: filled([T::ZERO; LANES], blocks * N * taps)?,
            taps,
            targets: 0,
            stride,
            row: (filled(0, blocks * LANES)?, filled(T::ZERO, blocks * LANES)?),
        })
    }

    #[inline(always)]
    pub fn taps(&self) -> usize {
        self.taps
    }

    #[inline(always)]
    pub fn targets(&self) -> usize {
        self.targets
    }

    /// The targets by sixteens; the last of them are filled too. `taps` are the table's, perhaps known to the compiler.
    #[inline(always)]
    pub fn blocks(&self, taps: usize) -> impl Iterator<Item = Block<'_, T, N>> {
        let first = self.first.as_chunks().0.iter().take(self.targets.div_ceil(LANES));
        first.zip(self.weights.chunks_exact(N * taps)).map(|(first, weights)| Block { first, weights })
    }

    /// (target, source, weight) of all.
    pub fn entries(&self) -> impl Iterator<Item = (usize, usize, T)> + '_ {
        self.blocks(self.taps).enumerate().flat_map(move |(block, Block { first, weights })| {
            let targets = block * LANES..self.targets.min((block + 1) * LANES);
            targets.zip(0..LANES).flat_map(move |(target, lane)| {
                let taps = weights.iter().enumerate();
                taps.map(move |(i, tap)| (target, first[i / self.taps][lane] as usize + i % self.taps, tap[lane]))
            })
        })
    }

    /// Targets are the bins returned, whose rays meet one of the lines from `line` on; sources a line's pixels, behind a
    /// margin; two taps. A pixel that a ray passes at a distance d < 1 along the line gets (1 - d) times the ray's length
    /// from line to line.
    #[inline(always)]
    pub fn fill_bins(&mut self, rays: AnyRays, line: usize, length: usize, bins: usize) -> Range<usize> {
        let mut met = rays.bins(line, length, bins);
        for i in 1..N {
            let other = rays.bins(line + i, length, bins);
            met = met.start.min(other.start)..met.end.max(other.end);
        }
        self.targets = met.len();
        for i in 0..N {
            match rays {
                AnyRays::Parallel(rays) => self.fill_bins_of(i, rays, (line + i) as f64, met.start, length),
                AnyRays::Fan(rays) => self.fill_bins_of(i, rays, (line + i) as f64, met.start, length),
            }
        }
        met
    }

    #[inline(always)]
    fn fill_bins_of(&mut self, i: usize, rays: impl Rays, line: f64, low: usize, length: usize) {
        // Counted from the margin. A ray that passes beyond the ends of the line is held to where there are zeros.
        let most = (length + MARGIN) as f64;
        let (start, blocks) = ((i * self.stride) as u32, self.targets.div_ceil(LANES));
        let weights = self.weights.as_chunks_mut::<2>().0;
        for block in 0..blocks {
            let (first, [left, right]) = (&mut self.first[block * N + i], &mut weights[block * N + i]);
            for lane in 0..LANES {
                let bin = f64::from((low + block * LANES + lane) as i32);
                let middle = within(rays.place(bin, line) + (MARGIN as f64 - 0.5), most);
                let (pixel, index) = rounded(middle);
                let (share, step) = (T::from_f64(middle - pixel + 0.5), T::from_f64(rays.length(bin)));
                first[lane] = start + index;
                left[lane] = (T::ONE - share) * step;
                right[lane] = share * step;
            }
        }
    }

    /// Targets are a line's pixels; sources the bins, behind a margin of as many as there are taps. The same weights.
    #[inline(always)]
    pub fn fill_pixels(&mut self, rays: [AnyRays; N], line: usize, length: usize, bins: usize) {
        self.targets = length;
        for (i, rays) in rays.into_iter().enumerate() {
            match rays {
                AnyRays::Parallel(rays) => self.fill_pixels_at_once(i, rays, line as f64, bins),
                AnyRays::Fan(rays) => self.fill_pixels_by_taps(i, rays, line as f64, bins),
            }
        }
    }

    /// Of two taps, each block in one go.
    #[inline(always)]
    fn fill_pixels_at_once(&mut self, i: usize, rays: impl Rays, line: f64, bins: usize) {
        let (start, blocks) = ((i * self.stride) as u32, self.targets.div_ceil(LANES));
        let weights = self.weights.as_chunks_mut::<2>().0;
        for block in 0..blocks {
            let (first, [left, right]) = (&mut self.first[block * N + i], &mut weights[block * N + i]);
            for lane in 0..LANES {
                let pixel = f64::from((block * LANES + lane) as i32);
                let (shadow, index) = nearest(rays, line, pixel, 2, bins);
                first[lane] = start + index;
                left[lane] = weight(rays, shadow - 2.0, line, pixel);
                right[lane] = weight(rays, shadow - 1.0, line, pixel);
            }
        }
    }

    /// Of any number, tap by tap: what a fan's weights take is vectorised in long loops only.
    #[inline(always)]
    fn fill_pixels_by_taps(&mut self, i: usize, rays: impl Rays, line: f64, bins: usize) {
        let (start, blocks, taps) = ((i * self.stride) as u32, self.targets.div_ceil(LANES), self.taps);
        let (first, weights) = (&mut self.row.0[..blocks * LANES], &mut self.row.1[..blocks * LANES]);
        for k in 0..first.len() {
            first[k] = nearest(rays, line, f64::from(k as i32), taps, bins).1;
        }
        for (block, first) in first.as_chunks().0.iter().enumerate() {
            self.first[block * N + i] = first.map(|first| start + first);
        }
        for tap in 0..taps {
            let offset = tap as f64 - taps as f64;
            for k in 0..weights.len() {
                weights[k] = weight(rays, f64::from(first[k] as i32) + offset, line, f64::from(k as i32));
            }
            for (block, weights) in weights.as_chunks().0.iter().enumerate() {
                self.weights[(block * N + i) * taps + tap] = *weights;
            }
        }
    }
}

/// The first of the `taps` bins around a pixel's shadow, counted from their margin.
#[inline(always)]
fn nearest(rays: impl Rays, line: f64, pixel: f64, taps: usize, bins: usize) -> (f64, u32) {
    let shadow = rays.bin(line, pixel) + (taps as f64 / 2.0 + 0.5);
    rounded(within(shadow, (bins + taps) as f64 - 0.5))
}

/// Of a pixel in a bin.
#[inline(always)]
fn weight<T: Scalar>(rays: impl Rays, bin: f64, line: f64, pixel: f64) -> T {
    let distance = (rays.place(bin, line) - pixel).abs();
    let share = T::from_f64(if distance < 1.0 { distance } else { 1.0 });
    (T::ONE - share) * T::from_f64(rays.length(bin))
}
