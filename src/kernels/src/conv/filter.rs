//! Filters, brought to the points of a scheme and packed as the products read them; and gradients brought back from there.

#![allow(clippy::needless_range_loop)] // the indices are the formulas'

use super::method::{with_scheme, Method, Way};
use super::scheme::Scheme;
use super::{blocks_of, unroll};
use crate::error::{check_len, Error, Result};
use crate::simd::element::load;
use crate::simd::{dispatch, transposed, Kernel, Line, Simd, LANES};
use std::marker::PhantomData;
use std::ops::Range;

/// A filter: weights, and how a scheme reads them. They are brought to its points anew for each use, in scratch memory: there a
/// filter is up to four times as large as its weights, and kept for all layers that is more than anything else takes.
#[derive(Clone, Copy)]
pub struct Filter<'a> {
    pub(super) method: Method,
    pub(super) way: Way,
    pub(super) inputs: [usize; 2],
    pub(super) outputs: usize,
    weights: &'a [f32],
    /// Whether the weights of an input, and not those of an output, lie together; and whether their taps are taken in reverse
    /// then.
    turned: bool,
    flipped: bool,
}

impl<'a> Filter<'a> {
    /// From weights (outputs, inputs, 3, 3). `inputs` are the channels of the source's two parts, the second may be 0.
    ///
    /// # Errors
    /// When the weights' length is not that of their shape, or a channel count is 0.
    pub fn new(method: Method, weights: &'a [f32], outputs: usize, inputs: [usize; 2]) -> Result<Self> {
        let (turned, flipped, way) = (false, false, method.forward());
        Filter { method, way, inputs, outputs, weights, turned, flipped }.checked()
    }

    /// From the same weights (outputs, inputs, 3, 3) the filter that takes the gradient of the output to that of the
    /// input (whole, not in parts).
    ///
    /// # Errors
    /// As for `new`.
    pub fn of_input_gradient(method: Method, weights: &'a [f32], outputs: usize, inputs: usize) -> Result<Self> {
        let (turned, flipped, way) = (true, method == Method::F4, method.gradient());
        Filter { method, way, inputs: [outputs, 0], outputs: inputs, weights, turned, flipped }.checked()
    }

    fn checked(self) -> Result<Self> {
        if self.outputs == 0 || self.inputs[0] == 0 {
            return Err(Error::misfit("a convolution needs at least one channel on either side"));
        }
        check_len("weights", self.weights.len(), self.outputs * (self.inputs[0] + self.inputs[1]) * TAPS * TAPS)?;
        Ok(self)
    }

    /// Lines of output channels.
    pub(super) fn panels(&self) -> usize {
        self.outputs.div_ceil(LANES)
    }

    /// Brings the filters from one block of inputs to one panel of outputs to the points: `lines[point * pitch + i]`, zero for
    /// inputs that are missing to sixteen.
    pub(super) fn pack(&self, panel: usize, inputs: Range<usize>, pitch: usize, lines: &mut [Line]) {
        let outputs = panel * LANES..self.outputs.min((panel + 1) * LANES);
        with_scheme!(self.way, K => {
            dispatch(Pack { filter: self, outputs, inputs, pitch, lines, scheme: PhantomData::<K> })
        });
    }

    /// The inputs of each block.
    pub(super) fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        blocks_of(self.inputs)
    }

    /// `taps[9 * i + tap]` is the line of the outputs for the i-th of the inputs; what is missing to sixteen is zero.
    #[inline(always)]
    pub(super) fn read<S: Simd>(&self, s: S, outputs: Range<usize>, inputs: Range<usize>, taps: &mut Taps) {
        if self.turned {
            let mut turned = [Line::ZERO; TAPS * TAPS * LANES];
            self.gather(s, inputs, outputs, &mut turned);
            for tap in 0..TAPS * TAPS {
                let to = if self.flipped { 8 - tap } else { tap };
                transpose(s, std::array::from_fn(|o| s.load(&turned[9 * o + tap].0)), |i| 9 * i + to, taps);
            }
        } else {
            self.gather(s, outputs, inputs, taps);
        }
    }

    /// `taps[9 * c + tap]` is the line of `rows` for the c-th of the columns.
    #[inline(always)]
    fn gather<S: Simd>(&self, s: S, rows: Range<usize>, columns: Range<usize>, taps: &mut Taps) {
        let width = self.weights.len() / if self.turned { self.inputs[0] } else { self.outputs };
        let own = |k: usize| match rows.start + k {
            row if row < rows.end => &self.weights[row * width..][9 * columns.start..9 * columns.end],
            _ => &[],
        };
        let padded;
        let mut whole = [&[0.0; 9 * LANES]; LANES];
        if rows.len() == LANES && columns.len() == LANES {
            for (k, whole) in whole.iter_mut().enumerate() {
                *whole = own(k).first_chunk().unwrap_or(whole);
            }
        } else {
            padded = std::array::from_fn(|k| pad(own(k)));
            whole = padded.each_ref();
        }
        for line in 0..TAPS * TAPS {
            let values = std::array::from_fn(|k| load(s, &whole[k][line * LANES..][..LANES]));
            transpose(s, values, |k| line * LANES + k, taps);
        }
    }
}

/// With zeros up to the weights of sixteen channels. Out of line, as it is rare and holds no registers.
#[cold]
#[inline(never)]
fn pad(row: &[f32]) -> [f32; 9 * LANES] {
    let mut whole = [0.0; 9 * LANES];
    whole.iter_mut().zip(row).for_each(|(to, from)| *to = *from);
    whole
}

/// Nine lines for each of sixteen channels.
pub(super) type Taps = [Line; TAPS * TAPS * LANES];

#[inline(always)]
fn transpose<S: Simd>(s: S, rows: [S::V; LANES], place: impl Fn(usize) -> usize, taps: &mut Taps) {
    for (k, column) in transposed(s, rows).into_iter().enumerate() {
        s.store(&mut taps[place(k)].0, column);
    }
}

/// G g G^T for 16 inputs and 16 outputs.
struct Pack<'a, K, const W: usize, const P: usize, const M: usize> {
    filter: &'a Filter<'a>,
    outputs: Range<usize>,
    inputs: Range<usize>,
    pitch: usize,
    lines: &'a mut [Line],
    scheme: PhantomData<K>,
}

impl<K: Scheme<W, P, M>, const W: usize, const P: usize, const M: usize> Kernel for Pack<'_, K, W, P, M> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut taps = [Line::ZERO; TAPS * TAPS * LANES];
        self.filter.read(s, self.outputs, self.inputs, &mut taps);
        for (i, own) in taps.chunks_exact(TAPS * TAPS).enumerate() {
            let values = at_points::<S, K, W, P, M>(s, own);
            unroll!(p < P {
                unroll!(q < P { s.store(&mut self.lines[(p * P + q) * self.pitch + i].0, values[p][q]); });
            });
        }
    }
}

/// G g G^T of the taps of one input.
#[inline(always)]
pub(super) fn at_points<S: Simd, K: Scheme<W, P, M>, const W: usize, const P: usize, const M: usize>(
    s: S,
    taps: &[Line],
) -> [[S::V; P]; P] {
    let tap = |k: usize| s.load(&taps[k].0);
    let mut columns = [[s.splat(0.0); P]; TAPS];
    unroll!(j < TAPS {
        let column = [tap(j), tap(3 + j), tap(6 + j)];
        unroll!(p < P { columns[j][p] = combine(s, K::FILTER[p], column); });
    });
    let mut values = [[s.splat(0.0); P]; P];
    unroll!(p < P {
        let row = [columns[0][p], columns[1][p], columns[2][p]];
        unroll!(q < P { values[p][q] = combine(s, K::FILTER[q], row); });
    });
    values
}

pub(super) const TAPS: usize = 3;

/// The sum of weights times values; weights of 0 and 1 cost nothing once the compiler knows them.
#[inline(always)]
pub(super) fn combine<S: Simd, const N: usize>(s: S, weights: [f64; N], values: [S::V; N]) -> S::V {
    let mut sum: Option<S::V> = None;
    unroll!(k < N {
        let weight = s.splat(weights[k] as f32);
        sum = match sum {
            _ if weights[k] == 0.0 => sum,
            None if weights[k] == 1.0 => Some(values[k]),
            None => Some(s.mul(values[k], weight)),
            Some(sum) if weights[k] == 1.0 => Some(s.add(sum, values[k])),
            Some(sum) => Some(s.fma(values[k], weight, sum)),
        };
    });
    sum.unwrap_or(s.splat(0.0))
}

/// Brings sums at the points back to the taps, G^T u G, for one panel of outputs and one block of inputs.
pub(super) struct ToTaps<'a, 'b, K, const W: usize, const P: usize, const M: usize> {
    /// `u[row][point of the row * stride + i]` is the line of input i.
    pub u: [&'a [Line]; P],
    pub stride: usize,
    /// Inputs of the block, and the place of its first one among all.
    pub inputs: usize,
    pub first: usize,
    /// The weights' gradients of each output of the panel, (inputs, 3, 3).
    pub rows: &'a mut [&'b mut [f32]],
    pub scheme: PhantomData<K>,
}

impl<K: Scheme<W, P, M>, const W: usize, const P: usize, const M: usize> Kernel for ToTaps<'_, '_, K, W, P, M> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for i in 0..self.inputs {
            let mut columns = [[s.splat(0.0); P]; TAPS];
            unroll!(q < P {
                let mut sums = [s.splat(0.0); P];
                unroll!(p < P { sums[p] = s.load(&self.u[p][q * self.stride + i].0); });
                unroll!(a < TAPS { columns[a][q] = combine(s, column_of::<K, W, P, M>(a), sums); });
            });
            let mut taps = [Line::ZERO; TAPS * TAPS];
            unroll!(a < TAPS {
                unroll!(b < TAPS {
                    s.store(&mut taps[a * TAPS + b].0, combine(s, column_of::<K, W, P, M>(b), columns[a]));
                });
            });
            for (lane, row) in self.rows.iter_mut().enumerate() {
                let own = &mut row[(self.first + i) * 9..][..9];
                for k in 0..9 {
                    own[k] = taps[k].0[lane];
                }
            }
        }
    }
}

/// Column `tap` of G.
#[inline(always)]
fn column_of<K: Scheme<W, P, M>, const W: usize, const P: usize, const M: usize>(tap: usize) -> [f64; P] {
    let mut weights = [0.0; P];
    unroll!(p < P { weights[p] = K::FILTER[p][tap]; });
    weights
}
