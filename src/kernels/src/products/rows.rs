//! Matrices brought into lines, and back.

use std::ops::Range;

use crate::simd::element::{load, store, Element};
use crate::simd::{Kernel, Line, Simd, LANES};

/// Rows of `width` numbers that begin `stride` apart.
#[derive(Clone, Copy)]
pub struct Rows<'a, T> {
    pub data: &'a [T],
    pub count: usize,
    pub width: usize,
    pub stride: usize,
}

impl<'a, T> Rows<'a, T> {
    /// Rows `from` .. `from + count`.
    pub fn some(&self, from: usize, count: usize) -> Self {
        Rows { data: &self.data[from * self.stride..], count, ..*self }
    }

    pub fn columns(&self, columns: Range<usize>) -> Self {
        Rows { data: &self.data[columns.start..], width: columns.len(), ..*self }
    }
}

/// `to[block * height + row] = factor * rows`, a line holding 16 numbers of a row; rows beyond the last are zero.
pub struct ByRow<'a, T> {
    pub rows: Rows<'a, T>,
    pub factor: f32,
    pub height: usize,
    pub to: &'a mut [Line],
}

impl<T: Element> Kernel for ByRow<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Rows { data, count, width, stride } = self.rows;
        for (block, to) in self.to.chunks_exact_mut(self.height).enumerate() {
            let own = block * LANES..width.min((block + 1) * LANES);
            for (row, line) in to.iter_mut().enumerate() {
                let value = if row < count {
                    load(s, &data[row * stride + own.start..row * stride + own.end])
                } else {
                    s.splat(0.0)
                };
                s.store(&mut line.0, s.mul(value, s.splat(self.factor)));
            }
        }
    }
}

/// `to[panel * depth + channel]`: a line holds that channel of 16 rows; what is missing is zero.
pub fn transpose<T: Element>(rows: Rows<T>, depth: usize, to: &mut [Line]) {
    for (panel, lines) in to.chunks_exact_mut(depth).enumerate() {
        lines.fill(Line::ZERO);
        for (lane, row) in (panel * LANES..rows.count.min((panel + 1) * LANES)).enumerate() {
            let row = &rows.data[row * rows.stride..][..rows.width];
            lines.iter_mut().zip(row).for_each(|(line, x)| line.0[lane] = x.to_f32());
        }
    }
}

/// Rows of the output, `stride` apart: `to[row] = factors[row] * from` + bias, where `place(row, block)` is the line's; or
/// added to what is there.
pub struct ToRows<'a, T, F> {
    pub from: &'a [Line],
    pub place: F,
    pub factors: &'a dyn Fn(usize) -> f32,
    pub bias: Option<&'a [T]>,
    pub add: bool,
    pub count: usize,
    pub width: usize,
    pub stride: usize,
    pub to: &'a mut [T],
}

impl<T: Element, F: Fn(usize, usize) -> usize> Kernel for ToRows<'_, T, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for row in 0..self.count {
            let factor = s.splat((self.factors)(row));
            let to = &mut self.to[row * self.stride..][..self.width];
            for (block, to) in to.chunks_mut(LANES).enumerate() {
                let line = &self.from[(self.place)(row, block)];
                let mut value = s.mul(s.load(&line.0), factor);
                if let Some(bias) = self.bias {
                    value = s.add(value, load(s, &bias[block * LANES..][..to.len()]));
                }
                if self.add {
                    value = s.add(value, load(s, to));
                }
                store(s, to, value);
            }
        }
    }
}
