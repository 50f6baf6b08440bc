//! From images to sinograms: a task has some views of a group of images, and goes through the lines.

use std::ops::Range;

use super::cell::Cell;
use super::pack::{Layout, Lines, AT_ONCE};
use super::view::Axis;
use super::weights::{Table, MARGIN};
use super::Projector;
use crate::error::Result;
use crate::pool::split::Split;
use crate::pool::{self, Pool};
use crate::simd::{dispatch, Kernel, Simd};

/// Views that go through a line while it is in the first-level cache, at most.
const VIEWS: usize = 4;

pub fn run<C: Cell>(p: &Projector, pool: &dyn Pool, images: usize, x: &[C::Number], y: &mut [C::Number]) -> Result {
    let pack = |axis| {
        let layout = Layout { lines: p.lines(axis), length: p.length(axis), margin: MARGIN, steps: p.steps(axis) };
        Lines::<C>::pack(pool, &p.workspace, images, x, layout)
    };
    let lines = [pack(Axis::Rows)?, pack(Axis::Columns)?];
    let (views, groups) = (p.views.len(), images.div_ceil(C::IMAGES));
    let each = (views * groups / (8 * pool.threads())).clamp(1, VIEWS);
    let blocks = views.div_ceil(each);
    let rows = Split::new(y, images * views, |i| (i + 1) * p.bins);
    pool::run(pool, groups * blocks, |i| {
        let (group, first) = (i / blocks, i % blocks * each);
        let views = first..views.min(first + each);
        let mut sums = p.workspace.filled(C::ZERO, views.len() * (p.bins + C::BEHIND))?;
        dispatch(Views { p, lines: &lines, group, views: views.clone(), sums: &mut sums })?;
        let images = (group * C::IMAGES..images).take(C::IMAGES);
        for (number, image) in images.enumerate() {
            for (view, sums) in views.clone().zip(sums.chunks_exact(p.bins + C::BEHIND)) {
                let row = rows.take(image * p.views.len() + view);
                row.iter_mut().zip(sums).for_each(|(y, sum)| *y = sum.numbers()[number]);
            }
        }
        p.workspace.keep(sums);
        Ok(())
    })
}

struct Views<'a, C: Cell> {
    p: &'a Projector,
    lines: &'a [Lines<'a, C>; 2],
    group: usize,
    views: Range<usize>,
    /// (views, bins and what is written behind them)
    sums: &'a mut [C],
}

impl<C: Cell> Kernel for Views<'_, C> {
    type Out = Result;

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) -> Result {
        for axis in Axis::BOTH {
            let (bins, stride, lines) = (self.p.bins, self.lines[axis as usize].stride(), self.p.lines(axis));
            let mut some = Table::<_, AT_ONCE>::new(2, bins, stride)?;
            let mut one = Table::<_, 1>::new(2, bins, stride)?;
            for first in (0..lines).step_by(AT_ONCE) {
                if first + AT_ONCE <= lines {
                    self.lines(s, axis, first, &mut some);
                } else {
                    for line in first..lines {
                        self.lines(s, axis, line, &mut one);
                    }
                }
            }
        }
        Ok(())
    }
}

impl<C: Cell> Views<'_, C> {
    /// Of the views, what lies on the `N` lines from `first` on.
    #[inline(always)]
    fn lines<S: Simd, const N: usize>(&mut self, s: S, axis: Axis, first: usize, table: &mut Table<C::Number, N>) {
        let p = self.p;
        let from = self.lines[axis as usize].of(self.group, first..first + N);
        for (view, sums) in p.views[self.views.clone()].iter().zip(self.sums.chunks_exact_mut(p.bins + C::BEHIND)) {
            let Some(rays) = view.rays(axis) else { continue };
            let bins = table.fill_bins(rays, first, p.length(axis), p.bins);
            C::gather(s, table, from, &mut sums[bins.start..]);
        }
    }
}
