//! How the sums of the weights' gradient are shared out among tasks: by rows of points, by inputs and by outputs.
//!
//! Each sum over tiles is made by one task, in order, so that its bits do not depend on the number of tasks. Every task brings
//! the inputs and outputs that it multiplies to its points by itself. Writing them is most of that, so whoever has half of the
//! points takes little more than half as long, and none have to be fetched from another core.

use crate::simd::{Line, LANES};
use std::ops::Range;

/// About how many cycles a tile takes on a processor with AVX-512: the products of a block and a panel at one point; and to
/// bring a block or a panel to the points, at first and for each point.
const PRODUCT: usize = 8;
const READING: usize = 130;
const WRITING: usize = 6;

pub(super) struct Slices {
    pub cuts: Cuts,
    /// Of inputs and of outputs.
    pub blocks: usize,
    pub panels: usize,
    /// Rows of points, and points in a row.
    side: usize,
}

/// Into how many parts the rows of points, the blocks and the panels are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cuts {
    pub rows: usize,
    pub across: usize,
    pub down: usize,
}

/// What one task sums.
pub(super) struct Slice {
    pub rows: Range<usize>,
    pub blocks: Range<usize>,
    pub panels: Range<usize>,
    side: usize,
}

impl Slices {
    /// As many as there are threads or more, where there are channels enough, cut so that they take the shortest time. `whole`:
    /// no block and no panel has fewer than 16 channels. Those take so long to read that nobody should do it twice.
    pub fn new(threads: usize, [blocks, panels]: [usize; 2], side: usize, whole: bool) -> Self {
        let with = |rows: usize, across: usize| {
            let down = threads.div_ceil(rows * across).min(panels);
            Slices { cuts: Cuts { rows, across, down }, blocks, panels, side }
        };
        let (mut best, mut least) = (with(1, 1), usize::MAX);
        let most = if whole { side.min(threads) } else { 1 };
        for rows in (1..=most).filter(|rows| side.is_multiple_of(*rows)) {
            // Inputs first: they take longer to bring to the points than outputs.
            for across in (1..=blocks.min(threads)).rev() {
                let slices = with(rows, across);
                let time = slices.time(threads);
                if time < least {
                    (best, least) = (slices, time);
                }
            }
        }
        best
    }

    /// About how long a tile takes in all.
    fn time(&self, threads: usize) -> usize {
        let Cuts { rows, across, down } = self.cuts;
        let points = self.side / rows * self.side;
        let (blocks, panels) = (self.blocks.div_ceil(across), self.panels.div_ceil(down));
        let products = points * blocks * panels * PRODUCT;
        let transforms = (blocks + panels) * (READING + points * WRITING);
        self.count().div_ceil(threads) * (products + transforms)
    }

    pub fn count(&self) -> usize {
        self.cuts.rows * self.cuts.across * self.cuts.down
    }

    pub fn get(&self, i: usize) -> Slice {
        let Cuts { rows, across, down } = self.cuts;
        let part = |k: usize, parts: usize, all: usize| k * all / parts..(k + 1) * all / parts;
        Slice {
            rows: part(i / (across * down), rows, self.side),
            blocks: part(i % across, across, self.blocks),
            panels: part(i / across % down, down, self.panels),
            side: self.side,
        }
    }

    /// Of all sums.
    pub fn lines(&self) -> usize {
        self.side * self.side * self.blocks * self.panels * LANES
    }

    /// Where the sums of each slice end.
    pub fn ends(&self) -> Vec<usize> {
        let mut end = 0;
        let mut ends = Vec::with_capacity(self.count());
        for i in 0..self.count() {
            end += self.get(i).lines();
            ends.push(end);
        }
        ends
    }

    /// The sums of a block and a panel, for each row of points, and the lines from one point of a row to the next.
    pub fn find<'a, const P: usize>(&self, sums: &'a [Line], block: usize, panel: usize) -> ([&'a [Line]; P], usize) {
        let (mut found, mut stride, mut start) = ([&[] as &[Line]; P], 0, 0);
        for i in 0..self.count() {
            let slice = self.get(i);
            if let Some(at) = slice.find(block, panel) {
                stride = slice.stride();
                for (k, row) in slice.rows.clone().enumerate() {
                    found[row] = &sums[start + k * P * stride + at..];
                }
            }
            start += slice.lines();
        }
        (found, stride)
    }
}

impl Slice {
    pub fn points(&self) -> usize {
        self.rows.len() * self.side
    }

    /// Lines from one point to the next.
    fn stride(&self) -> usize {
        self.blocks.len() * self.panels.len() * LANES
    }

    fn lines(&self) -> usize {
        self.points() * self.stride()
    }

    /// Where the sums of a block and a panel begin within a point, if they are of this slice.
    fn find(&self, block: usize, panel: usize) -> Option<usize> {
        let has = self.blocks.contains(&block) && self.panels.contains(&panel);
        has.then(|| ((block - self.blocks.start) * self.panels.len() + panel - self.panels.start) * LANES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sum_is_found_in_its_place_and_no_other() {
        for threads in [1, 2, 3, 7, 16, 64] {
            for (blocks, panels) in [(1, 1), (1, 4), (3, 1), (4, 4), (5, 3), (16, 16)] {
                let slices = Slices::new(threads, [blocks, panels], 6, true);
                let lines: Vec<Line> = (0..slices.lines()).map(|i| Line([i as f32; LANES])).collect();
                let mut seen = vec![false; lines.len()];
                for (block, panel) in (0..blocks).flat_map(|block| (0..panels).map(move |panel| (block, panel))) {
                    let (rows, stride) = slices.find::<6>(&lines, block, panel);
                    for (row, point) in (0..6).flat_map(|row| (0..6).map(move |point| (row, point))) {
                        let places = rows[row][point * stride..][..LANES].iter().map(|line| line.0[0] as usize);
                        places.for_each(|place| assert!(!std::mem::replace(&mut seen[place], true)));
                    }
                }
                assert!(seen.into_iter().all(|seen| seen), "{threads} threads, {blocks} blocks, {panels} panels");
                assert_eq!(slices.ends().last(), Some(&slices.lines()));
            }
        }
    }

    #[test]
    fn threads_are_kept_busy_with_the_least_work() {
        let cuts = |threads, channels, side, whole| {
            let Cuts { rows, across, down } = Slices::new(threads, channels, side, whole).cuts;
            [rows, across, down]
        };
        assert_eq!(cuts(1, [16, 16], 6, true), [1, 1, 1]);
        assert_eq!(cuts(2, [1, 1], 6, true), [2, 1, 1]);
        assert_eq!(cuts(2, [4, 4], 6, true), [2, 1, 1]);
        assert_eq!(cuts(2, [1, 4], 6, false), [1, 1, 2]);
        assert_eq!(cuts(2, [8, 8], 3, true), [1, 2, 1]); // three rows are no two halves
        assert_eq!(cuts(2, [32, 16], 6, true), [1, 2, 1]); // many inputs to read twice
        assert_eq!(cuts(16, [1, 1], 6, true), [6, 1, 1]);
    }
}
