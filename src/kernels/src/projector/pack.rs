//! Images and sinograms line by line, a group of images side by side in each cell.

use std::ops::Range;

use super::cell::Cell;
use crate::error::Result;
use crate::pool::scratch::filled;
use crate::pool::split::Split;
use crate::pool::{run, Pool};

/// Lines of cells, each between margins of zeros; those of the first group of images, then of the next.
pub struct Lines<C> {
    cells: Vec<C>,
    lines: usize,
    stride: usize,
}

/// Where numbers stand in an image, or in a sinogram.
pub struct Layout {
    pub lines: usize,
    pub length: usize,
    /// Zeros before and after each line.
    pub margin: usize,
    /// From line to line, and from place to place.
    pub steps: [usize; 2],
}

impl<C: Cell> Lines<C> {
    pub fn pack(pool: &dyn Pool, images: usize, x: &[C::Number], layout: Layout) -> Result<Self> {
        let Layout { lines, length, margin, steps } = layout;
        let (size, stride) = (lines * length, length + 2 * margin + C::BEHIND);
        let groups = images.div_ceil(C::IMAGES);
        let mut cells = filled(C::ZERO, groups * lines * stride)?;
        // a few thousand numbers to a task
        let each = (4096 / (stride * C::IMAGES)).clamp(1, lines);
        let blocks = lines.div_ceil(each);
        let pieces = Split::new(&mut cells, groups * blocks, |i| {
            (i / blocks * lines + ((i % blocks + 1) * each).min(lines)) * stride
        });
        run(pool, groups * blocks, |i| {
            let (group, first) = (i / blocks, i % blocks * each);
            let group = group * C::IMAGES..images.min((group + 1) * C::IMAGES);
            for (line, cells) in (first..).zip(pieces.take(i).chunks_exact_mut(stride)) {
                for (number, image) in group.clone().enumerate() {
                    let numbers = x[image * size + line * steps[0]..].iter().step_by(steps[1]);
                    for (cell, x) in cells[margin..margin + length].iter_mut().zip(numbers) {
                        cell.numbers_mut()[number] = *x;
                    }
                }
            }
            Ok(())
        })?;
        Ok(Lines { cells, lines, stride })
    }

    /// Some lines, each with its margins and [`Lines::stride`] cells from the next.
    pub fn of(&self, group: usize, lines: Range<usize>) -> &[C] {
        let start = group * self.lines;
        &self.cells[(start + lines.start) * self.stride..(start + lines.end) * self.stride]
    }

    pub fn stride(&self) -> usize {
        self.stride
    }
}
