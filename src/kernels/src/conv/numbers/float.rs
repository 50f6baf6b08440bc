//! Products in float32.

use super::{Numbers, Operands};
use crate::conv::filter::Filter;
use crate::conv::scheme::Scheme;
use crate::conv::tile::{All, ToPoints};
use crate::error::Result;
use crate::products::{Arithmetic, Floats, RUN};
use crate::simd::element::Element;
use crate::simd::{dispatch, Line, LANES};
use std::ops::Range;

/// A line holds 16 channels.
pub struct Float;

impl Numbers for Float {
    // Whole runs: else the bits would depend on how the work is shared out.
    const BLOCKS: usize = 2 * RUN;

    fn blocks(&self, filter: &Filter) -> usize {
        filter.ranges().count()
    }

    fn filter_lines(&self, blocks: usize) -> usize {
        Floats::panel(blocks, RUN)
    }

    fn pack(&self, filter: &Filter, panel: usize, blocks: Range<usize>, pitch: usize, u: &mut [Line]) -> Result {
        for (block, inputs) in filter.ranges().skip(blocks.start).take(blocks.len()).enumerate() {
            filter.pack(panel, inputs, pitch, &mut u[block * LANES..]);
        }
        Ok(())
    }

    fn to_points<T: Element, K: Scheme<W, P, M>, const W: usize, const P: usize, const M: usize>(
        &self,
        points: ToPoints<T, K, All, W, P, M>,
    ) {
        dispatch(points);
    }

    fn multiply(&self, operands: Operands) {
        operands.multiply(Floats, RUN);
    }
}
