//! Images and sinograms line by line, a group of images side by side in each cell.

use std::ops::Range;

use super::cell::Cell;
use super::workspace::Workspace;
use crate::error::Result;
use crate::pool::split::Split;
use crate::pool::{run, Pool};

/// Lines that lie in one piece of memory, and are gathered from or to at once.
pub const AT_ONCE: usize = 4;

/// Lines of cells; those of the first group of images, then of the next. Each task makes a piece of them: one buffer for
/// all would be touched for the first time by one thread, while the others wait.
pub struct Lines<'a, C: Cell> {
    workspace: &'a Workspace,
    pieces: Vec<Vec<C>>,
    /// Pieces of a group.
    each: usize,
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

impl<'a, C: Cell> Lines<'a, C> {
    /// For each group `lines` lines of `stride` cells, made [`AT_ONCE`] at a time: `work(group, which lines, their cells)`.
    pub fn new(
        pool: &dyn Pool,
        workspace: &'a Workspace,
        [groups, lines, stride]: [usize; 3],
        work: impl Fn(usize, Range<usize>, &mut [C]) -> Result + Sync,
    ) -> Result<Self> {
        let each = lines.div_ceil(AT_ONCE);
        let mut pieces: Vec<_> = (0..groups * each).map(|_| Vec::new()).collect();
        let places = Split::new(&mut pieces, groups * each, |i| i + 1);
        run(pool, groups * each, |i| {
            let (group, first) = (i / each, i % each * AT_ONCE);
            let lines = first..lines.min(first + AT_ONCE);
            let mut cells = workspace.filled(C::ZERO, lines.len() * stride)?;
            work(group, lines, &mut cells)?;
            places.take(i).fill(cells);
            Ok(())
        })?;
        Ok(Lines { workspace, pieces, each, stride })
    }

    /// Those of images or sinograms, each between margins of zeros.
    pub fn pack(
        pool: &dyn Pool,
        workspace: &'a Workspace,
        images: usize,
        x: &[C::Number],
        layout: Layout,
    ) -> Result<Self> {
        let Layout { lines, length, margin, steps } = layout;
        let (size, stride) = (lines * length, length + 2 * margin + C::BEHIND);
        Self::new(pool, workspace, [images.div_ceil(C::IMAGES), lines, stride], |group, lines, cells| {
            let images = group * C::IMAGES..images.min((group + 1) * C::IMAGES);
            for (line, cells) in lines.zip(cells.chunks_exact_mut(stride)) {
                for (number, image) in images.clone().enumerate() {
                    let numbers = x[image * size + line * steps[0]..].iter().step_by(steps[1]);
                    for (cell, x) in cells[margin..margin + length].iter_mut().zip(numbers) {
                        cell.numbers_mut()[number] = *x;
                    }
                }
            }
            Ok(())
        })
    }

    /// Some lines of one piece, each [`Lines::stride`] cells from the next.
    #[inline(always)]
    pub fn of(&self, group: usize, lines: Range<usize>) -> &[C] {
        let piece = &self.pieces[group * self.each + lines.start / AT_ONCE];
        let start = lines.start % AT_ONCE * self.stride;
        &piece[start..start + lines.len() * self.stride]
    }

    /// The cells at one place of all lines of a group.
    #[inline(always)]
    pub fn across(&self, group: usize, place: usize) -> impl Iterator<Item = &C> {
        let pieces = &self.pieces[group * self.each..(group + 1) * self.each];
        pieces.iter().flat_map(move |piece| piece[place..].iter().step_by(self.stride))
    }

    pub fn stride(&self) -> usize {
        self.stride
    }
}

impl<C: Cell> Drop for Lines<'_, C> {
    fn drop(&mut self) {
        self.pieces.drain(..).for_each(|piece| self.workspace.keep(piece));
    }
}
