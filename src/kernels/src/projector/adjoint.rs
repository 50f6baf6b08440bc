//! From sinograms to images: a task has some lines of a group of images, and goes through the views.

use std::ops::Range;

use super::cell::Cell;
use super::pack::{Layout, Lines};
use super::view::Axis;
use super::weights::Table;
use super::Projector;
use crate::error::Result;
use crate::pool::scratch::filled;
use crate::pool::split::Split;
use crate::pool::{self, Pool};
use crate::simd::{dispatch, Kernel, Simd};

/// Lines that go through a view while it is in the first-level cache.
const LINES: usize = 4;
/// Views that are added up before a sum is stored.
const VIEWS: usize = 4;

pub fn run<C: Cell>(p: &Projector, pool: &dyn Pool, images: usize, y: &[C::Number], x: &mut [C::Number]) -> Result {
    let layout = Layout { lines: p.views.len(), length: p.bins, margin: 2 * p.reach, steps: [p.bins, 1] };
    let sinograms = Lines::<C>::pack(pool, images, y, layout)?;
    let groups = images.div_ceil(C::IMAGES);
    let rows = along(p, pool, groups, &sinograms, Axis::Rows)?;
    let columns = along(p, pool, groups, &sinograms, Axis::Columns)?;
    let pieces = Split::new(x, images * p.height, |i| (i + 1) * p.width);
    pool::run(pool, images * p.height, |i| {
        let (image, row) = (i / p.height, i % p.height);
        let (group, number) = (image / C::IMAGES, image % C::IMAGES);
        let along_row = &rows[(group * p.height + row) * (p.width + C::BEHIND)..];
        let down = &columns[group * p.width * (p.height + C::BEHIND) + row..];
        let down = down.iter().step_by(p.height + C::BEHIND);
        for ((x, across), down) in pieces.take(i).iter_mut().zip(along_row).zip(down) {
            *x = across.numbers()[number] + down.numbers()[number];
        }
        Ok(())
    })
}

/// What the views whose rays are followed along `axis` give, line by line.
fn along<C: Cell>(p: &Projector, pool: &dyn Pool, groups: usize, sinograms: &Lines<C>, axis: Axis) -> Result<Vec<C>> {
    let (lines, stride) = (p.lines(axis), p.length(axis) + C::BEHIND);
    let mut sums = filled(C::ZERO, groups * lines * stride)?;
    let blocks = lines.div_ceil(LINES);
    let pieces = Split::new(&mut sums, groups * blocks, |i| {
        (i / blocks * lines + ((i % blocks + 1) * LINES).min(lines)) * stride
    });
    pool::run(pool, groups * blocks, |i| {
        let (group, first) = (i / blocks, i % blocks * LINES);
        let lines = first..lines.min(first + LINES);
        dispatch(Block { p, sinograms, axis, group, lines, sums: pieces.take(i) })
    })?;
    Ok(sums)
}

struct Block<'a, C> {
    p: &'a Projector,
    sinograms: &'a Lines<C>,
    axis: Axis,
    group: usize,
    lines: Range<usize>,
    /// (lines, length and what is written behind it)
    sums: &'a mut [C],
}

impl<C: Cell> Kernel for Block<'_, C> {
    type Out = Result;

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) -> Result {
        let (taps, length, stride) = (2 * self.p.reach, self.p.length(self.axis), self.sinograms.stride());
        let mut some = Table::<_, VIEWS>::new(taps, length, stride)?;
        let mut one = Table::<_, 1>::new(taps, length, stride)?;
        let mut view = 0;
        while view < self.p.views.len() {
            if self.views(s, view, &mut some).is_some() {
                view += VIEWS;
            } else {
                self.views(s, view, &mut one);
                view += 1;
            }
        }
        Ok(())
    }
}

impl<C: Cell> Block<'_, C> {
    /// Of the lines, what the `N` views from `first` on see; nothing if they do not all have rays along the axis.
    #[inline(always)]
    fn views<S: Simd, const N: usize>(&mut self, s: S, first: usize, table: &mut Table<C::Number, N>) -> Option<()> {
        let (p, length) = (self.p, self.p.length(self.axis));
        let views = p.views.get(first..first + N)?;
        let mut rays = [views[0].rays(self.axis)?; N];
        for i in 1..N {
            rays[i] = views[i].rays(self.axis)?;
        }
        let from = self.sinograms.of(self.group, first..first + N);
        for (line, sums) in self.lines.clone().zip(self.sums.chunks_exact_mut(length + C::BEHIND)) {
            table.fill_pixels(rays, line, length, p.bins);
            C::gather(s, table, from, sums);
        }
        Some(())
    }
}
