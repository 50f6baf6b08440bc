//! The kernels around products of whole numbers: what scales them, and transforms that end in pairs.

#![allow(clippy::needless_range_loop)] // the indices are the formulas'

use crate::conv::filter::{at_points, combine, Filter, TAPS};
use crate::conv::scheme::Scheme;
use crate::conv::tile::{points, All, ToPoints};
use crate::conv::unroll;
use crate::products::pairs::LINE;
use crate::simd::element::{load, Element};
use crate::simd::math::magnitude;
use crate::simd::{transposed, Kernel, Line, Simd, LANES};
use std::marker::PhantomData;
use std::ops::Range;

/// Channels of a stretch.
pub const STRETCH: usize = 4 * LINE;
/// The largest norm of a stretch of the filter.
pub const NORM: f32 = 32_700.0;
/// Lines that hold the taps of a stretch.
pub const TAPS_OF_STRETCH: usize = STRETCH * TAPS * TAPS;

/// The largest magnitude of some channels of an image (pixels, all channels), a multiple of 16 of them, and the largest sum of
/// a pixel's squares. Where a channel is not finite, the first is NaN.
pub struct Largest<'a, T> {
    pub image: &'a [T],
    pub all: usize,
    pub channels: Range<usize>,
}

impl<T: Element> Kernel for Largest<'_, T> {
    type Out = [f32; 2];

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> [f32; 2] {
        let zero = s.splat(0.0);
        let (mut largest, mut longest, mut nothing) = (zero, zero, zero);
        for pixels in self.image.chunks(LANES * self.all) {
            let mut squares = [zero; LANES];
            for (square, pixel) in squares.iter_mut().zip(pixels.chunks_exact(self.all)) {
                for x in pixel[self.channels.clone()].chunks_exact(LANES) {
                    let x = load(s, x);
                    largest = s.max(magnitude(s, x), largest);
                    nothing = s.fma(x, zero, nothing); // a maximum forgets NaN
                    *square = s.fma(x, x, *square);
                }
            }
            let sums = transposed(s, squares).into_iter().fold(zero, |sum, square| s.add(sum, square));
            longest = s.max(sums, longest);
        }
        let mut lanes = [Line::ZERO; 3];
        lanes.iter_mut().zip([largest, longest, nothing]).for_each(|(lanes, values)| s.store(&mut lanes.0, values));
        let [largest, longest] = [0, 1].map(|k: usize| lanes[k].0.into_iter().fold(0.0, f32::max));
        [largest + lanes[2].0.into_iter().sum::<f32>(), longest]
    }
}

/// As [`ToPoints`], in pairs; its blocks are of 32 channels.
pub struct ToPairs<'a, T, K, const W: usize, const P: usize, const M: usize> {
    pub points: ToPoints<'a, T, K, All, W, P, M>,
    /// Of each stretch of each image.
    pub scales: &'a [f32],
    pub stretches: usize,
}

impl<T: Element, K: Scheme<W, P, M>, const W: usize, const P: usize, const M: usize> Kernel
    for ToPairs<'_, T, K, W, P, M>
{
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let ToPoints { grid, source, outside, tiles, blocks, stride, v, .. } = self.points;
        let count = tiles.len();
        for (t, tile) in tiles.enumerate() {
            let window = grid.window::<T, W>(source.parts[0], outside, tile);
            let scales = &self.scales[grid.locate(tile)[0] * self.stretches..];
            for block in blocks.clone() {
                let mut scale = [[0.0; P]; P];
                for p in 0..P {
                    for q in 0..P {
                        scale[p][q] = scales[block * LINE / STRETCH] / (K::REACH[p] * K::REACH[q]);
                    }
                }
                let at = (block - blocks.start) * count + t;
                let low = points::<S, T, K, W, P, M>(s, &window, block * LINE);
                let high = points::<S, T, K, W, P, M>(s, &window, block * LINE + LANES);
                unroll!(p < P {
                    unroll!(q < P {
                        let scale = s.splat(scale[p][q]);
                        let pair = s.pair(s.mul(low[p][q], scale), s.mul(high[p][q], scale));
                        s.store(&mut v[(p * P + q) * stride + at].0, pair);
                    });
                });
            }
        }
    }
}

/// G g G^T of a stretch of inputs and up to 16 outputs, in pairs of inputs.
pub struct PackPairs<'a, K, const W: usize, const P: usize, const M: usize> {
    pub filter: &'a Filter<'a>,
    pub outputs: Range<usize>,
    pub inputs: Range<usize>,
    /// Room for the taps of the stretch.
    pub taps: &'a mut [Line],
    pub pitch: usize,
    /// Within what belongs to a point: where the pairs begin, and the line of what undoes the outputs' scales.
    pub places: [usize; 2],
    pub lines: &'a mut [Line],
    pub scheme: PhantomData<K>,
}

impl<K: Scheme<W, P, M>, const W: usize, const P: usize, const M: usize> Kernel for PackPairs<'_, K, W, P, M> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (taps, _) = self.taps[..self.inputs.len() * TAPS * TAPS].as_chunks_mut::<{ TAPS * TAPS * LANES }>();
        let mut squares = [s.splat(0.0); TAPS * TAPS];
        for (block, taps) in taps.iter_mut().enumerate() {
            let first = self.inputs.start + block * LANES;
            self.filter.read(s, self.outputs.clone(), first..first + LANES, taps);
            for own in taps.chunks_exact(TAPS * TAPS) {
                for k in 0..TAPS * TAPS {
                    let w = s.load(&own[k].0);
                    squares[k] = s.fma(w, w, squares[k]);
                }
            }
        }
        let norms = bounds::<S, K, W, P, M>(s, squares.map(|square| s.sqrt(square)));
        let mut scales = [[s.splat(0.0); P]; P];
        unroll!(p < P {
            unroll!(q < P {
                // Of a number and NaN the second. Squares of what is smaller are none.
                let norm = s.max(s.splat(1e-15), norms[p][q]);
                scales[p][q] = s.div(s.splat(NORM), norm);
                let back = s.mul(norm, s.splat(K::REACH[p] * K::REACH[q] / NORM));
                s.store(&mut self.lines[(p * P + q) * self.pitch + self.places[1]].0, back);
            });
        });
        for (block, taps) in taps.chunks_exact(2).enumerate() {
            for i in 0..LANES {
                let low = at_points::<S, K, W, P, M>(s, &taps[0][9 * i..][..9]);
                let high = at_points::<S, K, W, P, M>(s, &taps[1][9 * i..][..9]);
                let at = self.places[0] + block * LANES + i;
                unroll!(p < P {
                    unroll!(q < P {
                        let pair = s.pair(s.mul(low[p][q], scales[p][q]), s.mul(high[p][q], scales[p][q]));
                        s.store(&mut self.lines[(p * P + q) * self.pitch + at].0, pair);
                    });
                });
            }
        }
    }
}

/// |G| g |G|^T: the norms of values at the points do not exceed it, if those of the taps are g.
#[inline(always)]
fn bounds<S: Simd, K: Scheme<W, P, M>, const W: usize, const P: usize, const M: usize>(
    s: S,
    taps: [S::V; TAPS * TAPS],
) -> [[S::V; P]; P] {
    let mut columns = [[s.splat(0.0); P]; TAPS];
    unroll!(j < TAPS {
        let column = [taps[j], taps[3 + j], taps[6 + j]];
        unroll!(p < P { columns[j][p] = combine(s, K::FILTER[p].map(f64::abs), column); });
    });
    let mut values = [[s.splat(0.0); P]; P];
    unroll!(p < P {
        let row = [columns[0][p], columns[1][p], columns[2][p]];
        unroll!(q < P { values[p][q] = combine(s, K::FILTER[q].map(f64::abs), row); });
    });
    values
}
