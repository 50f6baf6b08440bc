//! The gradient of the weights: at each point, the tiles' points times the gradients of their products, summed over all
//! tiles, and then the filter's transform transposed.

use super::filter::ToTaps;
use super::method::{with_scheme, Method, Way};
use super::scheme::Scheme;
use super::slices::{Cuts, Slice, Slices};
use super::tile::{All, FromGradients, Grid, Rows, ToPoints};
use super::{blocks_of, check_sizes, zeros_for};
use crate::error::{check_len, Error, Result};
use crate::pool::scratch::{filled, lend, sized};
use crate::pool::split::Split;
use crate::pool::{run, Pool};
use crate::products::Correlations;
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
    let outputs = check(method, from, x, to, dy.len(), dw.len(), dbias.as_ref().map(|dbias| dbias.len()))?;
    let way = method.forward();
    let grid = Grid::new(from, to, way.tiling());
    let outside = zeros_for(x)?;
    let layer = Layer { grid: &grid, way, x, outside: &outside, dy, outputs };
    let parts = x.parts.map(|part| part.channels);
    let whole = [parts[0], parts[1], outputs].iter().all(|channels| channels.is_multiple_of(LANES));
    let channels = [blocks_of(parts).count(), outputs.div_ceil(LANES)];
    let slices = Slices::new(pool.threads(), channels, way.tiling().points, whole);
    let mut totals = filled(0.0, outputs)?;
    lend(|[sums]| {
        let sums = sized(sums, slices.lines())?;
        layer.sum(pool, &slices, sums, &mut totals)?;
        layer.bring_to_taps(pool, &slices, sums, dw)
    })?;
    if let Some(dbias) = dbias {
        dbias.iter_mut().zip(totals).for_each(|(bias, total)| *bias = total as f32);
    }
    Ok(())
}

/// Whether everything fits; the number of outputs.
fn check<T>(
    method: Method,
    from: Images,
    x: &Source<T>,
    to: Images,
    dy: usize,
    dw: usize,
    dbias: Option<usize>,
) -> Result<usize> {
    x.check(from)?;
    check_sizes(method, from, to)?;
    let outputs = dy / (to.batch * to.pixels());
    check_len("dy", dy, to.batch * to.pixels() * outputs)?;
    check_len("the gradient of weights", dw, outputs * x.channels() * 9)?;
    check_len("the gradient of bias", dbias.unwrap_or(outputs), outputs)?;
    if x.shift.is_some() || outputs == 0 {
        return Err(Error::misfit("a convolution takes no shift on its input, and gives at least one channel"));
    }
    Ok(outputs)
}

/// The layer, and what is known of it.
struct Layer<'a, T> {
    grid: &'a Grid,
    way: Way,
    x: &'a Source<'a, T>,
    outside: &'a [T],
    dy: &'a [T],
    outputs: usize,
}

impl<T: Element> Layer<'_, T> {
    /// The sums at the points, slice after slice, and those of dy.
    fn sum(&self, pool: &dyn Pool, slices: &Slices, sums: &mut [Line], totals: &mut [f64]) -> Result {
        let ends = slices.ends();
        let shares = Split::new(sums, ends.len(), |i| ends[i]);
        let Cuts { across, down, .. } = slices.cuts;
        let biases = Split::new(totals, down, |row| slices.get(row * across).panels.end * LANES);
        run(pool, ends.len(), |i| {
            // Every slice of points and of inputs sees all of dy; the first one sums it.
            let totals = if i % across == 0 { biases.take(i / across) } else { &mut [] };
            let (slice, sums) = (slices.get(i), shares.take(i));
            with_scheme!(self.way, K => match slices.cuts.rows {
                1 => self.sum_slice(PhantomData::<K>, All, &slice, sums, totals),
                _ => self.sum_slice(PhantomData::<K>, slice.rows.clone(), &slice, sums, totals),
            })
        })
    }

    fn sum_slice<K: Scheme<W, P, M>, R: Rows + Clone, const W: usize, const P: usize, const M: usize>(
        &self,
        scheme: PhantomData<K>,
        rows: R,
        slice: &Slice,
        sums: &mut [Line],
        totals: &mut [f64],
    ) -> Result {
        let all = self.grid.count();
        let mut biases = filled(Line::ZERO, slice.panels.len())?;
        lend(|[v, d]| {
            for start in (0..all).step_by(TILES) {
                let tiles = start..all.min(start + TILES);
                self.sum_tiles(scheme, rows.clone(), slice, tiles, [v, d], sums, &mut biases)?;
                let bias = biases.iter_mut().flat_map(|line| &mut line.0);
                totals.iter_mut().zip(bias).for_each(|(total, sum)| *total += f64::from(std::mem::take(sum)));
                biases.fill(Line::ZERO);
            }
            Ok(())
        })
    }

    fn sum_tiles<K: Scheme<W, P, M>, R: Rows + Clone, const W: usize, const P: usize, const M: usize>(
        &self,
        scheme: PhantomData<K>,
        rows: R,
        slice: &Slice,
        tiles: Range<usize>,
        [v, d]: [&mut Vec<Line>; 2],
        sums: &mut [Line],
        biases: &mut [Line],
    ) -> Result {
        let Slice { blocks, panels, .. } = slice;
        let (points, count, first) = (slice.points(), tiles.len(), tiles.start == 0);
        let strides = [(blocks.len() * count) | 1, (panels.len() * count) | 1];
        let (v, d) = (sized(v, points * strides[0])?, sized(d, points * strides[1])?);
        dispatch(ToPoints {
            grid: self.grid,
            source: self.x,
            outside: self.outside,
            tiles: tiles.clone(),
            blocks: blocks.clone(),
            rows: rows.clone(),
            stride: strides[0],
            v,
            scheme,
        });
        dispatch(FromGradients {
            grid: self.grid,
            dy: self.dy,
            channels: self.outputs,
            panels: panels.clone(),
            rows,
            tiles,
            stride: strides[1],
            d,
            sums: biases,
            scheme,
        });
        let (blocks, panels) = (blocks.len(), panels.len());
        dispatch(Correlations { points, blocks, panels, tiles: count, strides, v, d, sums, first });
        Ok(())
    }

    /// From the sums to dw (outputs, inputs, 3, 3).
    fn bring_to_taps(&self, pool: &dyn Pool, slices: &Slices, sums: &[Line], dw: &mut [f32]) -> Result {
        let row_size = self.x.channels() * 9;
        let rows = Split::new(dw, self.outputs, |o| (o + 1) * row_size);
        pool.run(slices.panels, &|panel| {
            let own = panel * LANES..self.outputs.min((panel + 1) * LANES);
            let mut rows: Vec<&mut [f32]> = own.map(|o| rows.take(o)).collect();
            with_scheme!(self.way, K => self.bring_panel(PhantomData::<K>, slices, sums, panel, &mut rows));
        })
    }

    fn bring_panel<K: Scheme<W, P, M>, const W: usize, const P: usize, const M: usize>(
        &self,
        scheme: PhantomData<K>,
        slices: &Slices,
        sums: &[Line],
        panel: usize,
        rows: &mut [&mut [f32]],
    ) {
        for (block, inputs) in blocks_of(self.x.parts.map(|part| part.channels)).enumerate() {
            let (u, stride) = slices.find::<P>(sums, block, panel);
            dispatch(ToTaps { u, stride, inputs: inputs.len(), first: inputs.start, rows: &mut *rows, scheme });
        }
    }
}
