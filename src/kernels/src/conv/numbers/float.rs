//! Products in float32.

use super::{Numbers, Operands};
use crate::conv::filter::Filter;
use crate::conv::scheme::Scheme;
use crate::conv::tile::ToPoints;
use crate::product::{Products, RUN};
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
        blocks * LANES
    }

    fn pack(&self, filter: &Filter, panel: usize, blocks: Range<usize>, pitch: usize, u: &mut [Line]) {
        for (block, inputs) in filter.ranges().skip(blocks.start).take(blocks.len()).enumerate() {
            filter.pack(panel, inputs, pitch, &mut u[block * LANES..]);
        }
    }

    fn to_points<T: Element, K: Scheme<W, P, M>, const W: usize, const P: usize, const M: usize>(
        &self,
        points: ToPoints<T, K, W, P, M>,
    ) {
        dispatch(points);
    }

    fn multiply(&self, operands: Operands) {
        let u = operands.panels();
        let Operands { points, blocks, tiles, strides, block, v, m, first, .. } = operands;
        dispatch(Products { points, blocks: blocks.len(), tiles: tiles.len(), strides, pitch: block, v, u, m, first });
    }
}
