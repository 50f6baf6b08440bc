//! The convolution itself: points, products and images, block after block of tiles.

use super::filter::Filter;
use super::method::{with_scheme, Way};
use super::scheme::Scheme;
use super::tile::{Addends, Grid, ToImages, ToPoints};
use super::{check_sizes, zeros_for};
use crate::error::{check_len, Error, Result};
use crate::pool::scratch::{lend, sized};
use crate::pool::split::Split;
use crate::pool::{run, Pool};
use crate::product::{Products, PANELS};
use crate::simd::element::Element;
use crate::simd::{dispatch, Line, LANES};
use crate::source::{Images, Source};
use std::marker::PhantomData;
use std::ops::Range;

/// Tiles of a block: enough for the weights, which are read anew for each block, to be read at the pace of the products.
const TILES: usize = 32;

/// y = filter applied to x, plus `addends`. `from` are the images of x, `to` those of y: by [`Method::output_size`] of one
/// another, the other way round for a filter of the input gradient.
///
/// # Errors
/// When a length or size does not fit, or x has a shift.
pub fn convolve<T: Element>(
    pool: &dyn Pool,
    from: Images,
    x: &Source<T>,
    filter: &Filter,
    addends: &Addends<T>,
    to: Images,
    y: &mut [T],
) -> Result {
    check(from, x, filter, addends, to, y.len())?;
    let tiling = filter.way.tiling();
    let grid = Grid::new(from, to, tiling);
    let tiles = grid.tiles;
    let outside = zeros_for(x)?;

    // A task is some rows of tiles, as their outputs lie together.
    let rows = to.batch * tiles[0];
    let tasks = (rows * tiles[1]).div_ceil(TILES).next_multiple_of(pool.threads()).min(rows);
    let first_pixel = |row: usize| {
        let (image, row) = (row / tiles[0], row % tiles[0]);
        (image * to.height + row * tiling.outputs) * to.width
    };
    let ys = Split::new(y, tasks, |i| first_pixel((i + 1) * rows / tasks) * filter.outputs);
    run(pool, tasks, |i| {
        let rows = i * rows / tasks..(i + 1) * rows / tasks;
        let task = Task { grid: &grid, x, filter, addends, outside: &outside, first: first_pixel(rows.start) };
        let y = ys.take(i);
        let tiles = rows.start * tiles[1]..rows.end * tiles[1];
        let blocks = tiles.len().div_ceil(2 * TILES);
        lend(|[v, m]| {
            (0..blocks).try_for_each(|k| {
                let block = tiles.start + k * tiles.len() / blocks..tiles.start + (k + 1) * tiles.len() / blocks;
                with_scheme!(filter.way, K => task.block(PhantomData::<K>, block, y, [v, m]))
            })
        })
    })
}

/// What the blocks of one task share.
struct Task<'a, T> {
    grid: &'a Grid,
    x: &'a Source<'a, T>,
    filter: &'a Filter,
    addends: &'a Addends<'a, T>,
    outside: &'a [T],
    /// The first pixel of the task's output.
    first: usize,
}

impl<T: Element> Task<'_, T> {
    fn block<K: Scheme<W, P, M>, const W: usize, const P: usize, const M: usize>(
        &self,
        scheme: PhantomData<K>,
        tiles: Range<usize>,
        y: &mut [T],
        [v, m]: [&mut Vec<Line>; 2],
    ) -> Result {
        let (filter, count) = (self.filter, tiles.len());
        let depth = filter.blocks() * LANES;
        // Odd strides keep the points' lines from falling into the same few sets of a cache.
        let strides = [(filter.blocks() * count) | 1, (PANELS * count) | 1];
        let (v, m) = (sized(v, P * P * strides[0])?, sized(m, P * P * strides[1])?);
        let points = ToPoints {
            grid: self.grid,
            source: self.x,
            outside: self.outside,
            tiles: tiles.clone(),
            blocks: 0..filter.blocks(),
            stride: strides[0],
            v,
            scheme,
        };
        dispatch(points);
        for first in (0..filter.panels()).step_by(PANELS) {
            let panels = first..filter.panels().min(first + PANELS);
            let u = |panel: usize| {
                let size = P * P * depth;
                panels.contains(&panel).then(|| &filter.lines[panel * size..(panel + 1) * size])
            };
            let u = [u(first), u(first + 1)];
            dispatch(Products { points: P * P, blocks: filter.blocks(), tiles: count, strides, v, u, m });
            dispatch(ToImages {
                grid: self.grid,
                channels: filter.outputs,
                panels,
                tiles: tiles.clone(),
                stride: strides[1],
                m,
                addends: self.addends,
                y,
                first: self.first,
                scheme,
            });
        }
        Ok(())
    }
}

fn check<T>(from: Images, x: &Source<T>, filter: &Filter, addends: &Addends<T>, to: Images, y: usize) -> Result {
    x.check(from)?;
    if x.shift.is_some() {
        return Err(Error::misfit("a convolution takes no shift on its input: its padding would not have it"));
    }
    if [x.parts[0].channels, x.parts[1].channels] != filter.inputs {
        let got = [x.parts[0].channels, x.parts[1].channels];
        return Err(Error::Misfit(format!("the source has {got:?} channels; the filter takes {:?}", filter.inputs)));
    }
    if filter.way == filter.method.forward() {
        check_sizes(filter.method, from, to)?;
    } else {
        check_sizes(filter.method, to, from)?;
    }
    let positions = to.batch * to.pixels();
    check_len("y", y, positions * filter.outputs)?;
    if let Some(bias) = addends.bias {
        check_len("bias", bias.len(), filter.outputs)?;
    }
    if let Some(residual) = addends.residual {
        check_len("residual", residual.len(), positions * filter.outputs)?;
    }
    Ok(())
}
