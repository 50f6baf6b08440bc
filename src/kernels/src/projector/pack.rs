//! Images and sinograms line by line, a group of images side by side in each cell.

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
pub struct Layout<F> {
    pub lines: usize,
    pub length: usize,
    /// Zeros before and after each line.
    pub margin: usize,
    /// Of (line, place).
    pub index: F,
}

impl<C: Cell> Lines<C> {
    pub fn pack<F>(pool: &dyn Pool, images: usize, x: &[C::Number], layout: Layout<F>) -> Result<Self>
    where
        F: Fn(usize, usize) -> usize + Sync,
    {
        let Layout { lines, length, margin, index } = layout;
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
                for (place, cell) in cells[margin..margin + length].iter_mut().enumerate() {
                    let at = index(line, place);
                    for (number, image) in cell.numbers_mut().iter_mut().zip(group.clone()) {
                        *number = x[image * size + at];
                    }
                }
            }
            Ok(())
        })?;
        Ok(Lines { cells, lines, stride })
    }

    /// Cells of a line with its margins.
    pub fn line(&self, group: usize, line: usize) -> &[C] {
        let start = (group * self.lines + line) * self.stride;
        &self.cells[start..start + self.stride]
    }
}
