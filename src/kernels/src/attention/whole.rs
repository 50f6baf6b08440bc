//! Queries, keys and values in whole numbers of 16 bits.
//!
//! A query and a key are scaled so that neither is longer than 46000: by Cauchy and Schwarz's inequality their product then
//! stays below 2^31. Probabilities, of which the largest of a row is 1, are multiplied with 32767, and values scaled so that over
//! a stretch of 64 keys no channel is longer than 8150, 2^31 / (32767 * 8) less what rounding adds.

use super::numbers::Numbers;
use super::pack::Rows;
use super::{Heads, MOST_ROWS};
use crate::error::Result;
use crate::pairs::{Pairs, MOST};
use crate::pool::scratch::sized;
use crate::product::{multiply, Arithmetic, Operands};
use crate::simd::element::{load, Element};
use crate::simd::math::magnitude;
use crate::simd::{dispatch, transposed, Kernel, Line, Simd, LANES};

/// Fewer positions are not worth the packing.
pub const LEAST: usize = 64;
/// Lines of 32 keys whose products are added up in whole numbers.
const STRETCH: usize = 2;
const LENGTH: f32 = 46_000.0;
const VALUES: f32 = 8_150.0;
/// The least that anything is divided by: squares of numbers that small are none.
const FLOOR: f32 = 3e-20;

/// The keys and values of a head.
pub struct Whole<'a> {
    heads: &'a Heads,
    keys: &'a [Line],
    values: &'a [Line],
}

impl<'a> Whole<'a> {
    pub fn new<T: Element>(
        heads: &'a Heads,
        [k, v]: [Rows<T>; 2],
        [keys, values]: [&'a mut Vec<Line>; 2],
    ) -> Result<Self> {
        let keys = sized(keys, heads.panels() * Pairs::panel(deep(heads), deep(heads)))?;
        dispatch(PackKeys { rows: k, lines: deep(heads), to: keys });
        let values = sized(values, heads.blocks() * Pairs::panel(long(heads), STRETCH))?;
        dispatch(PackValues { rows: v, lines: long(heads), to: values });
        Ok(Whole { heads, keys, values })
    }
}

impl<T: Element> Numbers<T> for Whole<'_> {
    const WHOLE: bool = true;

    fn scores(&self, queries: Rows<T>, block: &mut Vec<Line>, m: &mut [Line]) -> Result {
        let (deep, tiles) = (deep(self.heads), queries.count);
        let block = sized(block, deep * tiles)?;
        let mut scales = [0.0; MOST_ROWS];
        dispatch(PackQueries { rows: queries, factor: self.heads.factor(), to: block, scales: &mut scales });
        let arithmetic = Pairs { scales: &scales, pitch: 0 };
        multiply(Operands { arithmetic, tiles, blocks: deep, run: deep, v: block, u: self.keys, m });
        Ok(())
    }

    fn mix(&self, tiles: usize, v: &[Line], m: &mut [Line]) {
        let arithmetic = Pairs { scales: &[1.0; MOST_ROWS], pitch: 0 };
        let (blocks, u) = (long(self.heads), self.values);
        multiply(Operands { arithmetic, tiles, blocks, run: STRETCH, v, u, m });
    }
}

/// Lines of 32 channels.
fn deep(heads: &Heads) -> usize {
    heads.width.div_ceil(2 * LANES)
}

/// Lines of 32 keys.
fn long(heads: &Heads) -> usize {
    heads.panels().div_ceil(2)
}

/// Sixteen numbers of a row from `channel` on; zero for what there is not.
#[inline(always)]
fn part<S: Simd, T: Element>(s: S, rows: &Rows<T>, row: usize, channel: usize) -> S::V {
    if row < rows.count && channel < rows.width {
        let first = row * rows.stride;
        load(s, &rows.data[first + channel..first + rows.width.min(channel + LANES)])
    } else {
        s.splat(0.0)
    }
}

/// Of sixteen keys, a register for each of sixteen channels.
#[inline(always)]
fn keys<S: Simd, T: Element>(s: S, rows: &Rows<T>, first: usize, channel: usize) -> [S::V; LANES] {
    let mut own = [s.splat(0.0); LANES];
    for (k, own) in own.iter_mut().enumerate() {
        *own = part(s, rows, first + k, channel);
    }
    transposed(s, own)
}

/// What vectors are divided by, from their largest magnitudes and sums of squares. Of a number and NaN the larger is the
/// second.
#[inline(always)]
fn divisor<S: Simd>(s: S, largest: S::V, square: S::V) -> S::V {
    let least = s.max(s.splat(FLOOR), s.mul(largest, s.splat(1.0 / MOST)));
    s.max(least, s.mul(s.sqrt(square), s.splat(1.0 / LENGTH)))
}

/// Keys in panels of 16, as [`crate::pairs`] has weights: pairs of channels, and what undoes the keys' scales.
pub struct PackKeys<'a, T> {
    pub rows: Rows<'a, T>,
    /// Of 32 channels.
    pub lines: usize,
    pub to: &'a mut [Line],
}

impl<T: Element> Kernel for PackKeys<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let PackKeys { rows, lines, to } = self;
        for (index, to) in to.chunks_exact_mut(Pairs::panel(lines, lines)).enumerate() {
            let first = index * LANES;
            let (mut largest, mut square) = (s.splat(0.0), s.splat(0.0));
            for channel in (0..rows.width).step_by(LANES) {
                for x in keys(s, &rows, first, channel) {
                    largest = s.max(magnitude(s, x), largest);
                    square = s.fma(x, x, square);
                }
            }
            let back = divisor(s, largest, square);
            let scale = s.div(s.splat(1.0), back);
            for line in 0..lines {
                let low = keys(s, &rows, first, 2 * line * LANES);
                let high = keys(s, &rows, first, (2 * line + 1) * LANES);
                for i in 0..LANES {
                    let pair = s.pair(s.mul(low[i], scale), s.mul(high[i], scale));
                    s.store(&mut to[line * LANES + i].0, pair);
                }
            }
            s.store(&mut to[lines * LANES].0, back);
        }
    }
}

/// `to[line * rows + row]`, a line holding 32 channels of a query; and what undoes its scale, times `factor`.
pub struct PackQueries<'a, T> {
    pub rows: Rows<'a, T>,
    pub factor: f32,
    pub to: &'a mut [Line],
    pub scales: &'a mut [f32],
}

impl<T: Element> Kernel for PackQueries<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let PackQueries { rows, factor, to, scales } = self;
        for (row, scale) in scales.iter_mut().take(rows.count).enumerate() {
            let (mut largest, mut square) = (s.splat(0.0), s.splat(0.0));
            for channel in (0..rows.width).step_by(LANES) {
                let x = part(s, &rows, row, channel);
                largest = s.max(magnitude(s, x), largest);
                square = s.fma(x, x, square);
            }
            let mut lanes = [Line::ZERO; 2];
            s.store(&mut lanes[0].0, largest);
            s.store(&mut lanes[1].0, square);
            let largest = lanes[0].0.iter().fold(0.0, |a: f32, &b| a.max(b));
            let back = divisor(s, s.splat(largest), s.splat(lanes[1].0.iter().sum()));
            let there = s.div(s.splat(1.0), back);
            for (line, to) in to.chunks_exact_mut(rows.count).enumerate() {
                let low = part(s, &rows, row, 2 * line * LANES);
                let high = part(s, &rows, row, (2 * line + 1) * LANES);
                s.store(&mut to[row].0, s.pair(s.mul(low, there), s.mul(high, there)));
            }
            s.store(&mut lanes[0].0, s.mul(back, s.splat(factor)));
            *scale = lanes[0].0[0];
        }
    }
}

/// Values in panels of 16 channels, as [`crate::pairs`] has weights: pairs of keys, and what undoes the scales of each
/// stretch of them and of the probabilities.
pub struct PackValues<'a, T> {
    pub rows: Rows<'a, T>,
    /// Of 32 keys.
    pub lines: usize,
    pub to: &'a mut [Line],
}

impl<T: Element> Kernel for PackValues<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let PackValues { rows, lines, to } = self;
        for (index, to) in to.chunks_exact_mut(Pairs::panel(lines, STRETCH)).enumerate() {
            let channel = index * LANES;
            for (stretch, first) in (0..lines).step_by(STRETCH).enumerate() {
                let own = first..lines.min(first + STRETCH);
                let mut square = s.splat(0.0);
                for key in own.start * 2 * LANES..own.end * 2 * LANES {
                    let x = part(s, &rows, key, channel);
                    square = s.fma(x, x, square);
                }
                let back = s.max(s.splat(FLOOR), s.mul(s.sqrt(square), s.splat(1.0 / VALUES)));
                let scale = s.div(s.splat(1.0), back);
                for line in own {
                    for i in 0..LANES {
                        let low = part(s, &rows, 2 * line * LANES + i, channel);
                        let high = part(s, &rows, (2 * line + 1) * LANES + i, channel);
                        s.store(&mut to[line * LANES + i].0, s.pair(s.mul(low, scale), s.mul(high, scale)));
                    }
                }
                s.store(&mut to[lines * LANES + stretch].0, s.mul(back, s.splat(1.0 / MOST)));
            }
        }
    }
}
