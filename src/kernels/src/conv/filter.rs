//! Filters brought to the points of a scheme, packed as the products read them; and gradients brought back from there.

#![allow(clippy::needless_range_loop)] // the indices are the formulas'

use super::method::{with_scheme, Method, Way};
use super::scheme::Scheme;
use super::unroll;
use crate::error::{check_len, Error, Result};
use crate::pool::scratch::filled;
use crate::pool::split::Split;
use crate::pool::{Pool, Serial};
use crate::simd::{dispatch, Kernel, Line, Simd, LANES};
use std::marker::PhantomData;

/// A filter ready for [`super::convolve`].
pub struct Filter {
    pub(super) method: Method,
    pub(super) way: Way,
    pub(super) inputs: [usize; 2],
    pub(super) outputs: usize,
    /// `[panel][point][input channel]`, input channels padded to whole lines within each part.
    pub(super) lines: Vec<Line>,
    /// Where the weights of the first output and input begin, from one output to the next and from one input to the next.
    places: [usize; 2],
    /// Whether the taps are taken in reverse.
    flipped: bool,
}

impl Filter {
    /// From weights (outputs, inputs, 3, 3). `inputs` are the channels of the source's two parts, the second may be 0.
    ///
    /// # Errors
    /// When the weights' length is not that of their shape, or a channel count is 0.
    pub fn new(method: Method, weights: &[f32], outputs: usize, inputs: [usize; 2]) -> Result<Self> {
        let places = [(inputs[0] + inputs[1]) * 9, 9];
        let (lines, flipped, way) = (Vec::new(), false, method.forward());
        Filter { method, way, inputs, outputs, lines, places, flipped }.filled(weights)
    }

    /// From the same weights (outputs, inputs, 3, 3) the filter that takes the gradient of the output to that of the
    /// input (whole, not in parts).
    ///
    /// # Errors
    /// As for `new`.
    pub fn of_input_gradient(method: Method, weights: &[f32], outputs: usize, inputs: usize) -> Result<Self> {
        let places = [9, inputs * 9];
        let (lines, flipped, way) = (Vec::new(), matches!(method, Method::F2 | Method::F4), method.gradient());
        Filter { method, way, inputs: [outputs, 0], outputs: inputs, lines, places, flipped }.filled(weights)
    }

    fn filled(mut self, weights: &[f32]) -> Result<Self> {
        if self.outputs == 0 || self.inputs[0] == 0 {
            return Err(Error::misfit("a convolution needs at least one channel on either side"));
        }
        let points = self.way.tiling().points;
        self.lines = filled(Line::ZERO, self.panels() * points * points * self.blocks() * LANES)?;
        self.update(&Serial, weights)?;
        Ok(self)
    }

    /// Takes new weights of the same shape.
    ///
    /// # Errors
    /// When their length is not that of the shape.
    pub fn update(&mut self, pool: &dyn Pool, weights: &[f32]) -> Result {
        check_len("weights", weights.len(), self.outputs * (self.inputs[0] + self.inputs[1]) * 9)?;
        let (panels, size) = (self.panels(), self.lines.len() / self.panels());
        let mut lines = std::mem::take(&mut self.lines);
        let shares = Split::new(&mut lines, panels, |panel| (panel + 1) * size);
        let filter = &*self;
        let done = pool.run(panels, &|panel| {
            with_scheme!(filter.way, K => {
                let (lines, scheme) = (shares.take(panel), PhantomData::<K>);
                dispatch(Pack { filter, weights, panel, lines, scheme });
            });
        });
        drop(shares);
        self.lines = lines;
        done
    }

    /// Lines of input channels.
    pub(super) fn blocks(&self) -> usize {
        self.inputs.iter().map(|c| c.div_ceil(LANES)).sum()
    }

    /// Lines of output channels.
    pub(super) fn panels(&self) -> usize {
        self.outputs.div_ceil(LANES)
    }
}

/// Brings the filters of one panel to the points: G g G^T.
struct Pack<'a, K, const W: usize, const P: usize, const M: usize> {
    filter: &'a Filter,
    weights: &'a [f32],
    panel: usize,
    lines: &'a mut [Line],
    scheme: PhantomData<K>,
}

impl<K: Scheme<W, P, M>, const W: usize, const P: usize, const M: usize> Kernel for Pack<'_, K, W, P, M> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Filter { inputs, places, flipped, .. } = *self.filter;
        let outputs = self.panel * LANES..self.filter.outputs.min((self.panel + 1) * LANES);
        let depth = self.lines.len() / (P * P);
        for i in 0..inputs[0] + inputs[1] {
            let row = if i < inputs[0] { i } else { inputs[0].next_multiple_of(LANES) + i - inputs[0] };
            let mut taps = [Line::ZERO; 9];
            for (lane, o) in outputs.clone().enumerate() {
                let own = &self.weights[o * places[0] + i * places[1]..][..9];
                for k in 0..9 {
                    taps[if flipped { 8 - k } else { k }].0[lane] = own[k];
                }
            }
            let mut columns = [[s.splat(0.0); P]; TAPS];
            unroll!(j < TAPS {
                let tap = [s.load(&taps[j].0), s.load(&taps[3 + j].0), s.load(&taps[6 + j].0)];
                unroll!(p < P { columns[j][p] = combine(s, K::FILTER[p], tap); });
            });
            unroll!(p < P {
                let row_of_points = [columns[0][p], columns[1][p], columns[2][p]];
                unroll!(q < P {
                    let value = combine(s, K::FILTER[q], row_of_points);
                    s.store(&mut self.lines[(p * P + q) * depth + row].0, value);
                });
            });
        }
    }
}

const TAPS: usize = 3;

/// The sum of weights times values; weights of 0 and 1 cost nothing once the compiler knows them.
#[inline(always)]
fn combine<S: Simd, const N: usize>(s: S, weights: [f64; N], values: [S::V; N]) -> S::V {
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
    /// `u[point * stride + i]` is the line of input i.
    pub u: &'a [Line],
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
                unroll!(p < P { sums[p] = s.load(&self.u[(p * P + q) * self.stride + i].0); });
                unroll!(a < TAPS { columns[a][q] = combine(s, transposed::<K, W, P, M>(a), sums); });
            });
            let mut taps = [Line::ZERO; TAPS * TAPS];
            unroll!(a < TAPS {
                unroll!(b < TAPS {
                    s.store(&mut taps[a * TAPS + b].0, combine(s, transposed::<K, W, P, M>(b), columns[a]));
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
fn transposed<K: Scheme<W, P, M>, const W: usize, const P: usize, const M: usize>(tap: usize) -> [f64; P] {
    let mut weights = [0.0; P];
    unroll!(p < P { weights[p] = K::FILTER[p][tap]; });
    weights
}
