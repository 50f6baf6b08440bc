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

/// An integer next to `x`, as a number and as an index; 0 for all below 0.5. In arithmetic that every register can do: from
/// 2^52 on float64 has no fractions, and the last bits of what it stores are the integer's.
#[inline(always)]
fn rounded(x: f64) -> (f64, u32) {
    const SHIFT: f64 = (1u64 << 52) as f64;
    let shifted = if x > 0.0 { x } else { 0.0 } + SHIFT;
    (shifted - SHIFT, shifted.to_bits() as u32)
}

/// Zeros at either end of a line of pixels.
pub const MARGIN: usize = 2;

/// For each target k the sources first[k] .. first[k] + taps, with a weight each.
pub struct Table<T> {
    first: Vec<u32>,
    /// (taps, room)
    weights: Vec<T>,
    taps: usize,
    room: usize,
    targets: usize,
}

impl<T: Scalar> Table<T> {
    /// For up to `room` targets.
    pub fn new(taps: usize, room: usize) -> Result<Self> {
        let room = room.next_multiple_of(LANES);
        Ok(Table { first: filled(0, room)?, weights: filled(T::ZERO, taps * room)?, taps, room, targets: 0 })
    }

    #[inline(always)]
    pub fn taps(&self) -> usize {
        self.taps
    }

    #[inline(always)]
    pub fn room(&self) -> usize {
        self.room
    }

    /// The first source of every target, and the weights (taps, room).
    #[inline(always)]
    pub fn parts(&self) -> (&[u32], &[T]) {
        (&self.first[..self.targets], &self.weights)
    }

    /// (target, source, weight) of all.
    pub fn entries(&self) -> impl Iterator<Item = (usize, usize, T)> + '_ {
        (0..self.targets).flat_map(move |k| {
            (0..self.taps).map(move |tap| (k, self.first[k] as usize + tap, self.weights[tap * self.room + k]))
        })
    }

    /// Targets are the bins returned, whose rays meet the line; sources its pixels, behind a margin; two taps. A pixel that a
    /// ray passes at a distance d < 1 along the line gets (1 - d) times the ray's length from line to line.
    #[inline(always)]
    pub fn fill_bins(&mut self, rays: AnyRays, line: usize, length: usize, bins: usize) -> Range<usize> {
        match rays {
            AnyRays::Parallel(rays) => self.fill_bins_of(rays, line as f64, length, bins),
            AnyRays::Fan(rays) => self.fill_bins_of(rays, line as f64, length, bins),
        }
    }

    #[inline(always)]
    fn fill_bins_of(&mut self, rays: impl Rays, line: f64, length: usize, bins: usize) -> Range<usize> {
        let ends = [rays.bin(line, -1.0), rays.bin(line, length as f64)];
        let low = ends[0].min(ends[1]).clamp(0.0, bins as f64) as usize;
        let high = (ends[0].max(ends[1]) + 1.0).clamp(low as f64, bins as f64) as usize;
        let n = self.whole_blocks(high - low);
        let (left, right) = self.weights.split_at_mut(self.room);
        let (first, left, right) = (&mut self.first[..n], &mut left[..n], &mut right[..n]);
        for k in 0..n {
            let bin = f64::from((low + k) as i32);
            // Counted from the margin. A ray that passes beyond the ends of the line is held to where there are zeros.
            let place = within(rays.place(bin, line) + MARGIN as f64, length as f64 + MARGIN as f64 + 0.5);
            let (pixel, index) = rounded(place - 0.5);
            let (share, step) = (T::from_f64(place - pixel), T::from_f64(rays.length(bin)));
            first[k] = index;
            left[k] = (T::ONE - share) * step;
            right[k] = share * step;
        }
        low..high
    }

    /// Targets are the line's pixels; sources the bins, behind a margin of as many as there are taps. The same weights.
    #[inline(always)]
    pub fn fill_pixels(&mut self, rays: AnyRays, line: usize, length: usize, bins: usize) {
        match rays {
            AnyRays::Parallel(rays) => self.fill_pixels_of(rays, line as f64, length, bins),
            AnyRays::Fan(rays) => self.fill_pixels_of(rays, line as f64, length, bins),
        }
    }

    #[inline(always)]
    fn fill_pixels_of(&mut self, rays: impl Rays, line: f64, length: usize, bins: usize) {
        let n = self.whole_blocks(length);
        let first = &mut self.first[..n];
        let taps = self.taps as f64;
        let most = bins as f64 + taps;
        for k in 0..n {
            // the shadow, and as many bins on either side
            let bin = rays.bin(line, f64::from(k as i32)) + taps / 2.0 + 1.0;
            first[k] = rounded(within(bin, most) - 0.5).1;
        }
        for (tap, weights) in self.weights.chunks_exact_mut(self.room).enumerate() {
            let (weights, tap) = (&mut weights[..n], tap as f64 - taps);
            for k in 0..n {
                let bin = f64::from(first[k] as i32) + tap;
                let distance = (rays.place(bin, line) - f64::from(k as i32)).abs();
                let share = T::from_f64(if distance < 1.0 { distance } else { 1.0 });
                weights[k] = (T::ONE - share) * T::from_f64(rays.length(bin));
            }
        }
    }

    /// Sets the number of targets; gives it rounded up to blocks of 16, which are filled and may be read to their ends.
    #[inline(always)]
    fn whole_blocks(&mut self, targets: usize) -> usize {
        self.targets = targets;
        targets.next_multiple_of(LANES).min(self.room)
    }
}

impl Table<f32> {
    /// The first sources of 16 targets, the last ones perhaps of none.
    #[inline(always)]
    pub fn first_of(&self, block: usize) -> &[u32; LANES] {
        self.first[block * LANES..].first_chunk().unwrap_or(&[0; LANES])
    }

    /// The weights of their sources `tap`.
    #[inline(always)]
    pub fn block(&self, tap: usize, block: usize) -> &[f32; LANES] {
        self.weights[tap * self.room + block * LANES..].first_chunk().unwrap_or(&[0.0; LANES])
    }
}
