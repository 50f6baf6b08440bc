//! The convolution itself: points, products and images, shared out among tasks by tiles or by channels.

use super::filter::Filter;
use super::method::{with_scheme, Way};
use super::numbers::{Float, Numbers, Operands, Whole};
use super::scheme::Scheme;
use super::tile::{Addends, All, Grid, ToImages, ToPoints};
use super::{check_sizes, zeros_for};
use crate::error::{check_len, Error, Result};
use crate::pool::scratch::{lend, sized};
use crate::pool::split::Split;
use crate::pool::{run, Pool};
use crate::products::PANELS;
use crate::simd::element::Element;
use crate::simd::{dispatch, Line};
use crate::source::{Images, Source};
use std::marker::PhantomData;
use std::ops::Range;

/// Tiles of a block: enough for the filter, which is read anew for each block, to be read at the pace of the products.
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
    let (grid, outside) = (Grid::new(from, to, tiling), &*zeros_for(x)?);
    let side = tiling.outputs;
    match Whole::of(pool, x, &grid)? {
        Some(numbers) => Layer { grid, side, x, filter, addends, outside, numbers }.convolve(pool, y),
        None => Layer { grid, side, x, filter, addends, outside, numbers: Float }.convolve(pool, y),
    }
}

/// The layer, and what is known of it.
struct Layer<'a, T, N> {
    grid: Grid,
    /// Of a tile: pixels down and across.
    side: usize,
    x: &'a Source<'a, T>,
    filter: &'a Filter<'a>,
    addends: &'a Addends<'a, T>,
    outside: &'a [T],
    numbers: N,
}

/// Where the operands of some products lie: lines from one point to the next in v, u and m, from one block to the next in v,
/// from one panel to the next in u.
#[derive(Clone, Copy)]
struct Places {
    points: usize,
    strides: [usize; 3],
    block: usize,
    panel: usize,
}

impl<T: Element, N: Numbers> Layer<'_, T, N> {
    fn convolve(&self, pool: &dyn Pool, y: &mut [T]) -> Result {
        with_scheme!(self.filter.way, K => {
            if self.has_more_channels(pool.threads()) {
                self.by_channels(PhantomData::<K>, pool, y)
            } else {
                self.by_tiles(PhantomData::<K>, pool, y)
            }
        })
    }

    /// Rows of tiles in all images.
    fn rows(&self) -> usize {
        self.grid.to.batch * self.grid.tiles[0]
    }

    /// The tiles of some rows.
    fn tiles_of(&self, rows: &Range<usize>) -> Range<usize> {
        rows.start * self.grid.tiles[1]..rows.end * self.grid.tiles[1]
    }

    /// Whether the filter takes as much room at the points as the tiles or more, and can be shared out as well as their rows.
    fn has_more_channels(&self, threads: usize) -> bool {
        let pairs = self.filter.panels().div_ceil(PANELS);
        self.grid.count() <= self.filter.outputs && pairs >= threads.min(self.rows())
    }

    /// Hands tasks some rows of tiles each, whose outputs lie together, with those outputs and the first pixel of them.
    fn share_rows(
        &self,
        pool: &dyn Pool,
        tasks: usize,
        y: &mut [T],
        work: impl Fn(Range<usize>, &mut [T], usize) -> Result + Sync,
    ) -> Result {
        let (rows, to) = (self.rows(), self.grid.to);
        let first_pixel = |row: usize| {
            let (image, row) = (row / self.grid.tiles[0], row % self.grid.tiles[0]);
            (image * to.height + row * self.side) * to.width
        };
        let ys = Split::new(y, tasks, |i| first_pixel((i + 1) * rows / tasks) * self.filter.outputs);
        run(pool, tasks, |i| {
            let rows = i * rows / tasks..(i + 1) * rows / tasks;
            let first = first_pixel(rows.start);
            work(rows, ys.take(i), first)
        })
    }

    /// The whole filter is brought to the points; then tasks take tiles, a block at a time that stays in the caches.
    fn by_tiles<K: Scheme<W, P, M>, const W: usize, const P: usize, const M: usize>(
        &self,
        scheme: PhantomData<K>,
        pool: &dyn Pool,
        y: &mut [T],
    ) -> Result {
        // Odd, as all strides from point to point: else their lines fall into the same few sets of a cache.
        let blocks = self.numbers.blocks(self.filter);
        let pitch = self.numbers.filter_lines(blocks) | 1;
        let (size, panels) = (P * P * pitch, self.filter.panels());
        lend(|[u]| {
            let u = sized(u, panels * size)?;
            let shares = Split::new(u, panels, |panel| (panel + 1) * size);
            run(pool, panels, |panel| self.numbers.pack(self.filter, panel, 0..blocks, pitch, shares.take(panel)))?;
            drop(shares);
            let tasks = self.grid.count().div_ceil(TILES).next_multiple_of(pool.threads()).min(self.rows());
            self.share_rows(pool, tasks, y, |rows, y, first| {
                let tiles = self.tiles_of(&rows);
                let blocks = tiles.len().div_ceil(2 * TILES);
                lend(|[v, m]| {
                    (0..blocks).try_for_each(|k| {
                        let block =
                            tiles.start + k * tiles.len() / blocks..tiles.start + (k + 1) * tiles.len() / blocks;
                        self.block(scheme, block, (u, pitch), y, first, [v, m])
                    })
                })
            })
        })
    }

    fn block<K: Scheme<W, P, M>, const W: usize, const P: usize, const M: usize>(
        &self,
        scheme: PhantomData<K>,
        tiles: Range<usize>,
        (u, pitch): (&[Line], usize),
        y: &mut [T],
        first: usize,
        [v, m]: [&mut Vec<Line>; 2],
    ) -> Result {
        let (count, blocks, size) = (tiles.len(), self.numbers.blocks(self.filter), P * P * pitch);
        let points = [(blocks * count) | 1, pitch, (PANELS * count) | 1];
        let places = Places { points: P * P, strides: points, block: count, panel: size };
        let (v, m) = (sized(v, P * P * points[0])?, sized(m, P * P * points[2])?);
        self.to_points(scheme, tiles.clone(), 0..blocks, points[0], v);
        for (pair, u) in u.chunks(PANELS * size).enumerate() {
            self.numbers.multiply(places.operands(0..blocks, tiles.clone(), v, u, m, true));
            self.to_images(scheme, tiles.clone(), pair, [points[2], count], m, y, first);
        }
        Ok(())
    }

    /// All tiles are brought to the points; then tasks take two panels of outputs each, bring some blocks of inputs after
    /// others to the points and multiply; and then some rows of the images.
    fn by_channels<K: Scheme<W, P, M>, const W: usize, const P: usize, const M: usize>(
        &self,
        scheme: PhantomData<K>,
        pool: &dyn Pool,
        y: &mut [T],
    ) -> Result {
        let (filter, count) = (self.filter, self.grid.count());
        let (blocks, pairs) = (self.numbers.blocks(filter), filter.panels().div_ceil(PANELS));
        let points = [count | 1, self.numbers.filter_lines(N::BLOCKS) | 1, (PANELS * count) | 1];
        let [of_block, of_panel, of_pair] = points.map(|stride| P * P * stride);
        let places = Places { points: P * P, strides: points, block: of_block, panel: of_panel };
        lend(|[v, m]| {
            let (v, m) = (sized(v, blocks * of_block)?, sized(m, pairs * of_pair)?);
            let shares = Split::new(v, blocks, |block| (block + 1) * of_block);
            pool.run(blocks, &|block| {
                self.to_points(scheme, 0..count, block..block + 1, points[0], shares.take(block));
            })?;
            drop(shares);
            let shares = Split::new(m, pairs, |pair| (pair + 1) * of_pair);
            run(pool, pairs, |pair| {
                let m = shares.take(pair);
                let panels = pair * PANELS..filter.panels().min((pair + 1) * PANELS);
                lend(|[u]| {
                    let u = sized(u, panels.len() * of_panel)?;
                    for first in (0..blocks).step_by(N::BLOCKS) {
                        let own = first..blocks.min(first + N::BLOCKS);
                        for (panel, u) in panels.clone().zip(u.chunks_mut(of_panel)) {
                            self.numbers.pack(filter, panel, own.clone(), points[1], u)?;
                        }
                        let v = &v[first * of_block..];
                        self.numbers.multiply(places.operands(own, 0..count, v, u, m, first == 0));
                    }
                    Ok(())
                })
            })?;
            drop(shares);
            self.share_rows(pool, self.rows().min(pool.threads()), y, |rows, y, first| {
                let tiles = self.tiles_of(&rows);
                for (pair, m) in m.chunks(of_pair).enumerate() {
                    self.to_images(scheme, tiles.clone(), pair, [points[2], count], &m[tiles.start..], y, first);
                }
                Ok(())
            })
        })
    }

    fn to_points<K: Scheme<W, P, M>, const W: usize, const P: usize, const M: usize>(
        &self,
        scheme: PhantomData<K>,
        tiles: Range<usize>,
        blocks: Range<usize>,
        stride: usize,
        v: &mut [Line],
    ) {
        let (grid, source, outside) = (&self.grid, self.x, self.outside);
        self.numbers.to_points(ToPoints { grid, source, outside, tiles, blocks, rows: All, stride, v, scheme });
    }

    fn to_images<K: Scheme<W, P, M>, const W: usize, const P: usize, const M: usize>(
        &self,
        scheme: PhantomData<K>,
        tiles: Range<usize>,
        pair: usize,
        [stride, pitch]: [usize; 2],
        m: &[Line],
        y: &mut [T],
        first: usize,
    ) {
        let (grid, addends, channels) = (&self.grid, self.addends, self.filter.outputs);
        let panels = pair * PANELS..self.filter.panels().min((pair + 1) * PANELS);
        dispatch(ToImages { grid, channels, panels, tiles, stride, pitch, m, addends, y, first, scheme });
    }
}

impl Places {
    /// Of some lines of inputs and some tiles, with one or two panels; the first products, or more that are added to them.
    fn operands<'a>(
        self,
        blocks: Range<usize>,
        tiles: Range<usize>,
        v: &'a [Line],
        u: &'a [Line],
        m: &'a mut [Line],
        first: bool,
    ) -> Operands<'a> {
        let Places { points, strides, block, panel } = self;
        Operands { points, blocks, tiles, strides, block, panel, v, u, m, first }
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
