//! From sinograms to images: a task has some lines of a group of images, and goes through the views.

use std::ops::Range;

use super::cell::Cell;
use super::pack::{Layout, Lines, AT_ONCE};
use super::view::Axis;
use super::weights::Table;
use super::Projector;
use crate::error::Result;
use crate::pool::split::Split;
use crate::pool::{self, Pool};
use crate::simd::{dispatch, Kernel, Simd};

pub fn run<C: Cell>(p: &Projector, pool: &dyn Pool, images: usize, y: &[C::Number], x: &mut [C::Number]) -> Result {
    let layout = Layout { lines: p.views.len(), length: p.bins, margin: 2 * p.reach, steps: [p.bins, 1] };
    let sinograms = Lines::<C>::pack(pool, &p.workspace, images, y, layout)?;
    let groups = images.div_ceil(C::IMAGES);
    let rows = along(p, pool, groups, &sinograms, Axis::Rows)?;
    let columns = along(p, pool, groups, &sinograms, Axis::Columns)?;
    let pieces = Split::new(x, images * p.height, |i| (i + 1) * p.width);
    pool::run(pool, images * p.height, |i| {
        let (image, row) = (i / p.height, i % p.height);
        let (group, number) = (image / C::IMAGES, image % C::IMAGES);
        let numbers = rows.of(group, row..row + 1).iter().zip(columns.across(group, row));
        for (x, (along_row, down)) in pieces.take(i).iter_mut().zip(numbers) {
            *x = along_row.numbers()[number] + down.numbers()[number];
        }
        Ok(())
    })
}

/// What the views whose rays are followed along `axis` give, line by line.
fn along<'a, C: Cell>(
    p: &'a Projector,
    pool: &dyn Pool,
    groups: usize,
    sinograms: &Lines<C>,
    axis: Axis,
) -> Result<Lines<'a, C>> {
    Lines::new(pool, &p.workspace, [groups, p.lines(axis), p.length(axis) + C::BEHIND], |group, lines, sums| {
        dispatch(Block { p, sinograms, axis, group, lines, sums })
    })
}

struct Block<'a, C: Cell> {
    p: &'a Projector,
    sinograms: &'a Lines<'a, C>,
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
        let mut some = Table::<_, AT_ONCE>::new(taps, length, stride)?;
        let mut one = Table::<_, 1>::new(taps, length, stride)?;
        let views = self.p.views.len();
        for first in (0..views).step_by(AT_ONCE) {
            if self.views(s, first, &mut some).is_none() {
                for view in first..views.min(first + AT_ONCE) {
                    self.views(s, view, &mut one);
                }
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
