//! The gradient of the weights: at each point, the tiles' points times the gradients of their products, summed over all
//! tiles, and then the filter's transform transposed.

use super::filter::ToTaps;
use super::method::{with_scheme, Method, Way};
use super::scheme::Scheme;
use super::tile::{FromGradients, Grid, ToPoints};
use super::{check_sizes, grow, zeros_for, SCRATCH};
use crate::error::{check_len, Error, Result};
use crate::pool::split::Split;
use crate::pool::Pool;
use crate::product::Correlations;
use crate::simd::element::Element;
use crate::simd::{dispatch, Line, LANES};
use crate::source::{Images, Source};
use std::marker::PhantomData;
use std::ops::Range;

/// Tiles summed in registers before their sum is added to the others'.
const TILES: usize = 64;

/// Writes the gradients of weights (outputs, inputs, 3, 3) and, if asked for, bias (outputs) from x, the input of
/// [`super::convolve`] with a filter of `method`, and dy (N, H', W', outputs).
///
/// # Errors
/// When a length or size does not fit, or x has a shift.
#[allow(clippy::too_many_arguments)]
pub fn weight_gradient<T: Element>(
    pool: &dyn Pool,
    method: Method,
    from: Images,
    x: &Source<T>,
    to: Images,
    dy: &[T],
    dw: &mut [f32],
    dbias: Option<&mut [f32]>,
) -> Result {
    x.check(from)?;
    check_sizes(method, from, to)?;
    let inputs = x.channels();
    let outputs = dy.len() / (to.batch * to.pixels());
    check_len("dy", dy.len(), to.batch * to.pixels() * outputs)?;
    check_len("the gradient of weights", dw.len(), outputs * inputs * 9)?;
    if let Some(dbias) = &dbias {
        check_len("the gradient of bias", dbias.len(), outputs)?;
    }
    if x.shift.is_some() || outputs == 0 {
        return Err(Error("a convolution takes no shift on its input, and gives at least one channel".into()));
    }
    let way = method.forward();
    let grid = Grid::new(from, to, way.shape());
    let outside = zeros_for(x);
    let blocks = blocks_of(x).count();
    let panels = outputs.div_ceil(LANES);
    let points = way.shape().points * way.shape().points;

    // Tasks share out the channels, so that each sum over tiles is made by one task, in order.
    let across = pool.threads().min(blocks);
    let down = pool.threads().div_ceil(across).min(panels);
    let slice = |i: usize| Slice {
        blocks: i % across * blocks / across..(i % across + 1) * blocks / across,
        panels: i / across * panels / down..(i / across + 1) * panels / down,
    };
    let [v, d, mut sums] = SCRATCH.take();
    SCRATCH.set([v, d, Vec::new()]);
    grow(&mut sums, points * blocks * panels * LANES);
    let mut totals = vec![0.0; outputs];
    let ends: Vec<usize> = (0..across * down)
        .scan(0, |end, i| {
            *end += points * slice(i).blocks.len() * slice(i).panels.len() * LANES;
            Some(*end)
        })
        .collect();
    let shares = Split::new(&mut sums, ends.len(), |i| ends[i]);
    let biases = Split::new(&mut totals, down, |i| slice(i * across).panels.end * LANES);
    pool.run(ends.len(), &|i| {
        let task = Task { grid: &grid, x, outside: &outside, dy, outputs, slice: slice(i) };
        // Every slice of inputs sees all of dy; the first one sums it.
        let totals = if i % across == 0 { biases.take(i / across) } else { &mut [] };
        with_scheme!(way, K => task.sum(PhantomData::<K>, shares.take(i), totals));
    });
    drop((shares, biases));

    let rows = Split::new(dw, outputs, |o| (o + 1) * inputs * 9);
    pool.run(panels, &|panel| {
        let own = panel * LANES..outputs.min((panel + 1) * LANES);
        let mut rows: Vec<&mut [f32]> = own.map(|o| rows.take(o)).collect();
        for (block, inputs) in blocks_of(x).enumerate() {
            // The task whose slice this is, and where the slice's sums lie.
            let Some(i) = (0..ends.len()).find(|&i| slice(i).has(block, panel)) else { continue };
            let own = slice(i);
            let stride = own.blocks.len() * own.panels.len() * LANES;
            let at = ((block - own.blocks.start) * own.panels.len() + panel - own.panels.start) * LANES;
            let u = &sums[ends[i] - points * stride + at..ends[i]];
            let (first, inputs, rows) = (inputs.start, inputs.len(), rows.as_mut_slice());
            with_scheme!(way, K => dispatch(ToTaps { u, stride, inputs, first, rows, scheme: PhantomData::<K> }));
        }
    });
    let [v, d, _] = SCRATCH.take();
    SCRATCH.set([v, d, sums]);
    if let Some(dbias) = dbias {
        dbias.iter_mut().zip(totals).for_each(|(bias, total)| *bias = total as f32);
    }
    Ok(())
}

/// The channels that one task sums: blocks of inputs, panels of outputs.
struct Slice {
    blocks: Range<usize>,
    panels: Range<usize>,
}

impl Slice {
    fn has(&self, block: usize, panel: usize) -> bool {
        self.blocks.contains(&block) && self.panels.contains(&panel)
    }
}

struct Task<'a, T> {
    grid: &'a Grid,
    x: &'a Source<'a, T>,
    outside: &'a [T],
    dy: &'a [T],
    outputs: usize,
    slice: Slice,
}

impl<T: Element> Task<'_, T> {
    fn sum<K: Scheme<W, P, M>, const W: usize, const P: usize, const M: usize>(
        &self,
        scheme: PhantomData<K>,
        sums: &mut [Line],
        totals: &mut [f64],
    ) {
        let Slice { blocks, panels } = &self.slice;
        let [mut v, mut d, kept] = SCRATCH.take();
        let all = self.grid.from.batch * self.grid.tiles[0] * self.grid.tiles[1];
        let mut biases = vec![Line::ZERO; panels.len()];
        for start in (0..all).step_by(TILES) {
            let tiles = start..all.min(start + TILES);
            let strides = [(blocks.len() * tiles.len()) | 1, (panels.len() * tiles.len()) | 1];
            grow(&mut v, P * P * strides[0]);
            grow(&mut d, P * P * strides[1]);
            dispatch(ToPoints {
                grid: self.grid,
                source: self.x,
                outside: self.outside,
                tiles: tiles.clone(),
                blocks: blocks.clone(),
                stride: strides[0],
                v: &mut v,
                scheme,
            });
            dispatch(FromGradients {
                grid: self.grid,
                dy: self.dy,
                channels: self.outputs,
                panels: panels.clone(),
                tiles: tiles.clone(),
                stride: strides[1],
                d: &mut d,
                sums: &mut biases,
                scheme,
            });
            dispatch(Correlations {
                points: P * P,
                blocks: blocks.len(),
                panels: panels.len(),
                tiles: tiles.len(),
                strides,
                v: &v,
                d: &d,
                sums,
                first: start == 0,
            });
            let bias = biases.iter_mut().flat_map(|line| &mut line.0);
            totals.iter_mut().zip(bias).for_each(|(total, sum)| *total += f64::from(std::mem::take(sum)));
            biases.fill(Line::ZERO);
        }
        SCRATCH.set([v, d, kept]);
    }
}

/// The inputs of each block.
fn blocks_of<'a, T>(x: &'a Source<T>) -> impl Iterator<Item = Range<usize>> + 'a {
    x.placed().flat_map(|(offset, part)| {
        let end = offset + part.channels;
        (offset..end).step_by(LANES).map(move |start| start..end.min(start + LANES))
    })
}
