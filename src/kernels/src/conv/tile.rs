//! The transforms of tiles: from images to points, and from products to images.

#![allow(clippy::needless_range_loop)] // the indices are the formulas'

use super::method::Tiling;
use super::scheme::Scheme;
use super::unroll;
use crate::simd::element::{load, store, Element};
use crate::simd::{Kernel, Line, Simd, LANES};
use crate::source::{Images, Part, Source};
use std::marker::PhantomData;
use std::ops::Range;

/// Where tiles lie. They are numbered along the rows of tiles of one image after the other.
#[derive(Clone, Copy)]
pub struct Grid {
    pub from: Images,
    pub to: Images,
    /// Rows and columns of tiles in one image.
    pub tiles: [usize; 2],
    pub step: usize,
    pub before: usize,
}

impl Grid {
    pub fn new(from: Images, to: Images, tiling: Tiling) -> Self {
        let tiles = [to.height, to.width].map(|size| size.div_ceil(tiling.outputs));
        Grid { from, to, tiles, step: tiling.step, before: tiling.before }
    }

    /// All tiles.
    pub fn count(&self) -> usize {
        self.to.batch * self.tiles[0] * self.tiles[1]
    }

    /// Image, row and column of a tile.
    pub(super) fn locate(&self, tile: usize) -> [usize; 3] {
        let [rows, columns] = self.tiles;
        [tile / (rows * columns), tile / columns % rows, tile % columns]
    }

    /// The pixels of one part that a tile reads; those beyond the image are `outside`.
    #[inline(always)]
    pub(super) fn window<'a, T, const W: usize>(
        &self,
        part: Part<'a, T>,
        outside: &'a [T],
        tile: usize,
    ) -> [[&'a [T]; W]; W] {
        let [height, width] = [self.from.height, self.from.width];
        let [image, row, column] = self.locate(tile);
        let mut window = [[outside; W]; W];
        for (i, window) in window.iter_mut().enumerate() {
            // Below zero wraps round to far above the height.
            let y = (row * self.step + i).wrapping_sub(self.before);
            for (j, pixel) in window.iter_mut().enumerate() {
                let x = (column * self.step + j).wrapping_sub(self.before);
                if y < height && x < width {
                    let place = (image * height + y) * width + x;
                    *pixel = &part.data[place * part.channels..];
                }
                *pixel = &pixel[..part.channels];
            }
        }
        window
    }
}

/// Rows of points: all of them, which the compiler knows then, or a range.
pub trait Rows {
    fn first(&self) -> usize;
    fn contain(&self, row: usize) -> bool;
}

#[derive(Clone, Copy)]
pub struct All;

impl Rows for All {
    #[inline(always)]
    fn first(&self) -> usize {
        0
    }
    #[inline(always)]
    fn contain(&self, _: usize) -> bool {
        true
    }
}

impl Rows for Range<usize> {
    #[inline(always)]
    fn first(&self) -> usize {
        self.start
    }
    #[inline(always)]
    fn contain(&self, row: usize) -> bool {
        self.start <= row && row < self.end
    }
}

/// Writes the points of tiles `tiles` in some rows of points: `v[point * stride + block * count + tile]`, a line of 16
/// channels each, for the blocks of channels `blocks` (each part of the source begins a new block).
pub struct ToPoints<'a, T, K, R, const W: usize, const P: usize, const M: usize> {
    pub grid: &'a Grid,
    pub source: &'a Source<'a, T>,
    /// As many zeros as the wider part has channels: what lies outside of the images.
    pub outside: &'a [T],
    pub tiles: Range<usize>,
    pub blocks: Range<usize>,
    pub rows: R,
    pub stride: usize,
    pub v: &'a mut [Line],
    pub scheme: PhantomData<K>,
}

impl<T: Element, K: Scheme<W, P, M>, R: Rows, const W: usize, const P: usize, const M: usize> Kernel
    for ToPoints<'_, T, K, R, W, P, M>
{
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (count, before) = (self.tiles.len(), self.rows.first() * P * self.stride);
        for (t, tile) in self.tiles.enumerate() {
            let mut first_block = 0;
            for (_, part) in self.source.placed() {
                let window = self.grid.window::<T, W>(part, self.outside, tile);
                let own = first_block..first_block + part.channels.div_ceil(LANES);
                for block in own.start.max(self.blocks.start)..own.end.min(self.blocks.end) {
                    // Below zero before the rows before are added.
                    let at = ((block - self.blocks.start) * count + t).wrapping_sub(before);
                    let columns = columns::<S, T, K, W, P, M>(s, &window, (block - own.start) * LANES);
                    unroll!(p < P {
                        if self.rows.contain(p) {
                            let values = row::<S, K, W, P, M>(s, &columns, p);
                            unroll!(q < P { s.store(&mut self.v[((p * P + q) * self.stride).wrapping_add(at)].0, values[q]); });
                        }
                    });
                }
                first_block = own.end;
            }
        }
    }
}

/// What 16 channels of a window from `first` on are at the points.
#[inline(always)]
pub(super) fn points<S: Simd, T: Element, K: Scheme<W, P, M>, const W: usize, const P: usize, const M: usize>(
    s: S,
    window: &[[&[T]; W]; W],
    first: usize,
) -> [[S::V; P]; P] {
    let columns = columns::<S, T, K, W, P, M>(s, window, first);
    let mut values = [[s.splat(0.0); P]; P];
    unroll!(p < P { values[p] = row::<S, K, W, P, M>(s, &columns, p); });
    values
}

/// The same before its rows are brought to the points.
#[inline(always)]
fn columns<S: Simd, T: Element, K: Scheme<W, P, M>, const W: usize, const P: usize, const M: usize>(
    s: S,
    window: &[[&[T]; W]; W],
    first: usize,
) -> [[S::V; P]; W] {
    let mut columns = [[s.splat(0.0); P]; W];
    unroll!(j < W {
        let mut column = [s.splat(0.0); W];
        unroll!(i < W { column[i] = load(s, &window[i][j][first..]); });
        columns[j] = K::points(s, column);
    });
    columns
}

/// A row of points.
#[inline(always)]
fn row<S: Simd, K: Scheme<W, P, M>, const W: usize, const P: usize, const M: usize>(
    s: S,
    columns: &[[S::V; P]; W],
    p: usize,
) -> [S::V; P] {
    let mut row = [s.splat(0.0); W];
    unroll!(j < W { row[j] = columns[j][p]; });
    K::points(s, row)
}

/// What is added to the sums of products.
#[derive(Clone, Copy, Default)]
pub struct Addends<'a, T> {
    /// (channels)
    pub bias: Option<&'a [f32]>,
    /// (N, H, W, channels)
    pub residual: Option<&'a [T]>,
}

/// Writes the outputs of tiles `tiles` for the channels of some panels from `m[point * stride + panel * pitch + tile]`.
pub struct ToImages<'a, T, K, const W: usize, const P: usize, const M: usize> {
    pub grid: &'a Grid,
    pub channels: usize,
    pub panels: Range<usize>,
    pub tiles: Range<usize>,
    pub stride: usize,
    pub pitch: usize,
    pub m: &'a [Line],
    pub addends: &'a Addends<'a, T>,
    /// The output from pixel `first` (counted over the batch) on.
    pub y: &'a mut [T],
    pub first: usize,
    pub scheme: PhantomData<K>,
}

impl<T: Element, K: Scheme<W, P, M>, const W: usize, const P: usize, const M: usize> Kernel
    for ToImages<'_, T, K, W, P, M>
{
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (grid, channels) = (self.grid, self.channels);
        let [height, width] = [grid.to.height, grid.to.width];
        for (t, tile) in self.tiles.enumerate() {
            let [image, row, column] = grid.locate(tile);
            for (k, panel) in self.panels.clone().enumerate() {
                let own = panel * LANES..channels.min((panel + 1) * LANES);
                let mut base = s.splat(0.0);
                if let Some(bias) = self.addends.bias {
                    base = load(s, &bias[own.clone()]);
                }
                let products = &self.m[k * self.pitch + t..];
                let mut columns = [[s.splat(0.0); M]; P];
                unroll!(q < P {
                    let mut column = [s.splat(0.0); P];
                    unroll!(p < P { column[p] = s.load(&products[(p * P + q) * self.stride].0); });
                    columns[q] = K::outputs(s, column);
                });
                let mut values = [[s.splat(0.0); M]; M];
                unroll!(i < M {
                    let mut row = [s.splat(0.0); P];
                    unroll!(q < P { row[q] = columns[q][i]; });
                    values[i] = K::outputs(s, row);
                });
                for (i, values) in values.into_iter().enumerate() {
                    let y = row * M + i;
                    for (j, value) in values.into_iter().enumerate() {
                        let x = column * M + j;
                        if y < height && x < width {
                            let place = (image * height + y) * width + x;
                            let at = place * channels + own.start..place * channels + own.end;
                            let out = &mut self.y[at.start - self.first * channels..at.end - self.first * channels];
                            let mut value = s.add(value, base);
                            if let Some(residual) = self.addends.residual {
                                value = s.add(value, load(s, &residual[at]));
                            }
                            store(s, out, value);
                        }
                    }
                }
            }
        }
    }
}

/// Writes the gradients of the products of tiles `tiles` from those of the outputs, in some rows of points: `d[point * stride
/// + panel * count + tile]`, for the channels of some panels; and sums the outputs' gradients, a line per panel.
pub struct FromGradients<'a, T, K, R, const W: usize, const P: usize, const M: usize> {
    pub grid: &'a Grid,
    pub dy: &'a [T],
    pub channels: usize,
    pub panels: Range<usize>,
    pub rows: R,
    pub tiles: Range<usize>,
    pub stride: usize,
    pub d: &'a mut [Line],
    pub sums: &'a mut [Line],
    pub scheme: PhantomData<K>,
}

impl<T: Element, K: Scheme<W, P, M>, R: Rows, const W: usize, const P: usize, const M: usize> Kernel
    for FromGradients<'_, T, K, R, W, P, M>
{
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (grid, count, channels) = (self.grid, self.tiles.len(), self.channels);
        let [height, width] = [grid.to.height, grid.to.width];
        let before = self.rows.first() * P * self.stride;
        for (t, tile) in self.tiles.enumerate() {
            let [image, row, column] = grid.locate(tile);
            for ((k, panel), sum) in self.panels.clone().enumerate().zip(self.sums.iter_mut()) {
                let own = panel * LANES..channels.min((panel + 1) * LANES);
                let at = (k * count + t).wrapping_sub(before);
                let mut total = s.load(&sum.0);
                let mut columns = [[s.splat(0.0); P]; M];
                unroll!(j < M {
                    let mut values = [s.splat(0.0); M];
                    unroll!(i < M {
                        let (y, x) = (row * M + i, column * M + j);
                        if y < height && x < width {
                            let place = (image * height + y) * width + x;
                            values[i] = load(s, &self.dy[place * channels + own.start..place * channels + own.end]);
                            total = s.add(total, values[i]);
                        }
                    });
                    columns[j] = K::spread(s, values);
                });
                s.store(&mut sum.0, total);
                unroll!(p < P {
                    if self.rows.contain(p) {
                        let mut row = [s.splat(0.0); M];
                        unroll!(j < M { row[j] = columns[j][p]; });
                        let values = K::spread(s, row);
                        unroll!(q < P {
                            s.store(&mut self.d[((p * P + q) * self.stride).wrapping_add(at)].0, values[q]);
                        });
                    }
                });
            }
        }
    }
}
