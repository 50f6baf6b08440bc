//! The weights of one line and one view, seen from the bins or from the pixels.

#![allow(clippy::needless_range_loop)] // plain loops over equal lengths are those that compilers vectorise

use std::ops::Range;

use super::cell::Real;
use super::view::{AnyRays, Rays};
use crate::error::Result;
use crate::pool::scratch::filled;
use crate::simd::LANES;

/// What a ray gives a pixel that it passes at `distance` pixels along the line, at most 1, and the other way round.
#[inline(always)]
fn weight(distance: f64, length: f64) -> f64 {
    (1.0 - distance) * length
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

/// For each target k the sources first[k] .. first[k] + taps, with a weight each.
pub struct Table<T> {
    first: Vec<u32>,
    /// (taps, room)
    weights: Vec<T>,
    taps: usize,
    room: usize,
    targets: usize,
}

impl<T: Real> Table<T> {
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

    /// Targets are the bins returned, whose rays meet the line; sources its pixels, behind one zero; two taps.
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
        let n = high - low;
        self.targets = n;
        let (left, right) = self.weights.split_at_mut(self.room);
        let (first, left, right) = (&mut self.first[..n], &mut left[..n], &mut right[..n]);
        let (low_bin, most) = (low as f64, length as f64 + 1.0);
        for k in 0..n {
            let bin = low_bin + f64::from(k as i32);
            let (place, step) = (rays.place(bin, line), rays.length(bin));
            // counted from the zero in front of the line; a ray that passes beyond the line's ends meets zeros only
            let place = within(place + 1.0, most);
            let (pixel, index) = rounded(place - 0.5);
            first[k] = index;
            left[k] = T::from_f64(weight(place - pixel, step));
            right[k] = T::from_f64(weight(pixel + 1.0 - place, step));
        }
        low..high
    }

    /// Targets are the line's pixels; sources the bins, behind as many zeros as there are taps.
    #[inline(always)]
    pub fn fill_pixels(&mut self, rays: AnyRays, line: usize, length: usize, bins: usize) {
        match rays {
            AnyRays::Parallel(rays) => self.fill_pixels_of(rays, line as f64, length, bins),
            AnyRays::Fan(rays) => self.fill_pixels_of(rays, line as f64, length, bins),
        }
    }

    #[inline(always)]
    fn fill_pixels_of(&mut self, rays: impl Rays, line: f64, length: usize, bins: usize) {
        self.targets = length;
        let first = &mut self.first[..length];
        let taps = self.taps as f64;
        let most = bins as f64 + taps;
        for (pixel, first) in first.iter_mut().enumerate() {
            // the shadow, and as many bins on either side
            let bin = rays.bin(line, f64::from(pixel as i32)) + taps / 2.0 + 1.0;
            *first = rounded(within(bin, most) - 0.5).1;
        }
        for (tap, weights) in self.weights.chunks_exact_mut(self.room).enumerate() {
            let (weights, tap) = (&mut weights[..length], tap as f64 - taps);
            for pixel in 0..length {
                let bin = f64::from(first[pixel] as i32) + tap;
                let distance = (rays.place(bin, line) - f64::from(pixel as i32)).abs();
                let distance = if distance < 1.0 { distance } else { 1.0 };
                weights[pixel] = T::from_f64(weight(distance, rays.length(bin)));
            }
        }
    }
}

impl Table<f32> {
    /// The weights of 16 targets' sources `tap`; zeros, or those of lines before, behind the last target.
    #[inline(always)]
    pub fn block(&self, tap: usize, block: usize) -> &[f32; LANES] {
        self.weights[tap * self.room + block * LANES..].first_chunk().unwrap_or(&[0.0; LANES])
    }
}
