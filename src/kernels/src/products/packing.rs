//! Rows of numbers as pairs of whole numbers of 16 bits, scaled so that no sum of their products overflows.
//!
//! Two vectors are scaled so that neither is longer than [`LENGTH`]: by Cauchy and Schwarz's inequality their product then
//! stays below 2^31.

#![allow(clippy::needless_range_loop)] // the indices are the formulas'

use super::pairs::{Pairs, LINE, MOST};
use super::rows::Rows;
use super::Arithmetic;
use crate::simd::element::{load, Element};
use crate::simd::math::magnitude;
use crate::simd::{transposed, Kernel, Line, Simd, LANES};

const LENGTH: f32 = 46_000.0;

/// Sixteen numbers of a row from `first` on; zero for what there is not.
#[inline(always)]
pub fn part<S: Simd, T: Element>(s: S, rows: &Rows<T>, row: usize, first: usize) -> S::V {
    if row < rows.count && first < rows.width {
        let start = row * rows.stride;
        load(s, &rows.data[start + first..start + rows.width.min(first + LANES)])
    } else {
        s.splat(0.0)
    }
}

/// Sixteen rows turned: a register for each of their sixteen numbers from `first` on.
#[inline(always)]
fn turned<S: Simd, T: Element>(s: S, rows: &Rows<T>, row: usize, first: usize) -> [S::V; LANES] {
    let mut own = [s.splat(0.0); LANES];
    for (k, own) in own.iter_mut().enumerate() {
        *own = part(s, rows, row + k, first);
    }
    transposed(s, own)
}

/// What vectors of so many numbers are divided by, from their largest magnitudes and sums of squares. Where squares leave
/// the range of float32, length is bounded by the largest number. Of a number and NaN the larger and the smaller is the
/// second.
#[inline(always)]
fn divisor<S: Simd>(s: S, count: usize, largest: S::V, square: S::V) -> S::V {
    let root = s.splat((count as f32).sqrt());
    let norm = s.min(s.mul(largest, root), s.sqrt(square));
    let bound = s.max(s.mul(s.min(largest, s.splat(1e-15)), root), norm);
    let least = s.max(s.splat(1e-30), s.mul(largest, s.splat(1.0 / MOST)));
    s.max(least, s.mul(bound, s.splat(1.0 / LENGTH)))
}

/// Rows in panels of 16: `to[panel][number of two]`, pairs of numbers 16 apart, and what undoes the rows' scales.
pub struct RowsToPanels<'a, T> {
    pub rows: Rows<'a, T>,
    pub to: &'a mut [Line],
}

impl<T: Element> Kernel for RowsToPanels<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let RowsToPanels { rows, to } = self;
        let lines = rows.width.div_ceil(LINE);
        for (panel, to) in to.chunks_exact_mut(Pairs::panel(lines, lines)).enumerate() {
            let row = panel * LANES;
            let (mut largest, mut square) = (s.splat(0.0), s.splat(0.0));
            for first in (0..rows.width).step_by(LANES) {
                for x in turned(s, &rows, row, first) {
                    largest = s.max(magnitude(s, x), largest);
                    square = s.fma(x, x, square);
                }
            }
            let back = divisor(s, rows.width, largest, square);
            let there = s.div(s.splat(1.0), back);
            for line in 0..lines {
                let low = turned(s, &rows, row, line * LINE);
                let high = turned(s, &rows, row, line * LINE + LANES);
                for i in 0..LANES {
                    let pair = s.pair(s.mul(low[i], there), s.mul(high[i], there));
                    s.store(&mut to[line * LANES + i].0, pair);
                }
            }
            s.store(&mut to[lines * LANES].0, back);
        }
    }
}

/// `to[line * rows + row]`, a line holding 32 numbers of a row; and what undoes its scale, times `factor`.
pub struct RowsToTiles<'a, T> {
    pub rows: Rows<'a, T>,
    pub factor: f32,
    pub to: &'a mut [Line],
    pub scales: &'a mut [f32],
}

impl<T: Element> Kernel for RowsToTiles<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let RowsToTiles { rows, factor, to, scales } = self;
        for (row, scale) in scales.iter_mut().take(rows.count).enumerate() {
            let (mut largest, mut square) = (s.splat(0.0), s.splat(0.0));
            for first in (0..rows.width).step_by(LANES) {
                let x = part(s, &rows, row, first);
                largest = s.max(magnitude(s, x), largest);
                square = s.fma(x, x, square);
            }
            let mut lanes = [Line::ZERO; 2];
            s.store(&mut lanes[0].0, largest);
            s.store(&mut lanes[1].0, square);
            let largest = lanes[0].0.iter().fold(0.0, |a: f32, &b| a.max(b));
            let back = divisor(s, rows.width, s.splat(largest), s.splat(lanes[1].0.iter().sum()));
            let there = s.div(s.splat(1.0), back);
            for (line, to) in to.chunks_exact_mut(rows.count).enumerate() {
                let low = part(s, &rows, row, line * LINE);
                let high = part(s, &rows, row, line * LINE + LANES);
                s.store(&mut to[row].0, s.pair(s.mul(low, there), s.mul(high, there)));
            }
            s.store(&mut lanes[0].0, s.mul(back, s.splat(factor)));
            *scale = lanes[0].0[0];
        }
    }
}

/// What up to sixteen columns are divided by.
#[inline(always)]
fn divisor_of_columns<S: Simd, T: Element>(s: S, rows: &Rows<T>) -> S::V {
    const CHAINS: usize = 4; // none waits for the sum before
    let (mut largest, mut squares) = ([s.splat(0.0); CHAINS], [s.splat(0.0); CHAINS]);
    for row in (0..rows.count).step_by(CHAINS) {
        for k in 0..CHAINS {
            let x = part(s, rows, row + k, 0);
            largest[k] = s.max(magnitude(s, x), largest[k]);
            squares[k] = s.fma(x, x, squares[k]);
        }
    }
    let [a, b, c, d] = largest;
    let [e, f, g, h] = squares;
    divisor(s, rows.count, s.max(s.max(a, b), s.max(c, d)), s.add(s.add(e, f), s.add(g, h)))
}

/// Up to 16 columns as a panel: pairs of rows 16 apart, and what undoes the columns' scales.
pub struct ColumnsToPanel<'a, T> {
    pub rows: Rows<'a, T>,
    pub to: &'a mut [Line],
}

impl<T: Element> Kernel for ColumnsToPanel<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let ColumnsToPanel { rows, to } = self;
        let back = divisor_of_columns(s, &rows);
        let there = s.div(s.splat(1.0), back);
        let (pairs, end) = to.split_at_mut(rows.count.div_ceil(LINE) * LANES);
        for (line, to) in pairs.chunks_exact_mut(LANES).enumerate() {
            for i in 0..LANES {
                let low = part(s, &rows, line * LINE + i, 0);
                let high = part(s, &rows, line * LINE + LANES + i, 0);
                s.store(&mut to[i].0, s.pair(s.mul(low, there), s.mul(high, there)));
            }
        }
        s.store(&mut end[0].0, back);
    }
}

/// Up to 16 columns, `to[line * pitch + column]`, a line holding 32 numbers of a column; and what undoes their scales.
pub struct ColumnsToTiles<'a, T> {
    pub rows: Rows<'a, T>,
    pub pitch: usize,
    pub to: &'a mut [Line],
    pub scales: &'a mut [f32; LANES],
}

impl<T: Element> Kernel for ColumnsToTiles<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let ColumnsToTiles { rows, pitch, to, scales } = self;
        let back = divisor_of_columns(s, &rows);
        s.store(scales, back);
        let mut there = [0.0; LANES];
        s.store(&mut there, s.div(s.splat(1.0), back));
        for (line, to) in to.chunks_mut(pitch).enumerate() {
            let low = turned(s, &rows, line * LINE, 0);
            let high = turned(s, &rows, line * LINE + LANES, 0);
            for i in 0..LANES {
                let there = s.splat(there[i]);
                s.store(&mut to[i].0, s.pair(s.mul(low[i], there), s.mul(high[i], there)));
            }
        }
    }
}
