//! What the products between the transforms are made of: floats, or whole numbers of 16 bits.

mod float;
mod pairs;
mod whole;

pub use float::Float;
pub use whole::Whole;

use super::filter::Filter;
use super::scheme::Scheme;
use super::tile::{All, ToPoints};
use crate::error::Result;
use crate::products::{halves, Arithmetic, Products};
use crate::simd::element::Element;
use crate::simd::Line;
use std::ops::Range;

/// How inputs and filters are stored at the points, and multiplied.
pub trait Numbers: Sync {
    /// Lines of inputs that are brought to the points and multiplied at a time where tasks share out the filter: few enough
    /// for a pair of panels to stay in the second cache, and so many that sums come and go seldom.
    const BLOCKS: usize;

    /// Lines that hold the inputs of a tile at a point.
    fn blocks(&self, filter: &Filter) -> usize;

    /// Lines that hold the filter of a panel at a point, for so many lines of inputs.
    fn filter_lines(&self, blocks: usize) -> usize;

    /// Brings the filter from some lines of inputs to a panel to the points, `pitch` lines apart.
    fn pack(&self, filter: &Filter, panel: usize, blocks: Range<usize>, pitch: usize, u: &mut [Line]) -> Result;

    /// Brings inputs to the points.
    fn to_points<T: Element, K: Scheme<W, P, M>, const W: usize, const P: usize, const M: usize>(
        &self,
        points: ToPoints<T, K, All, W, P, M>,
    );

    /// m = v u, or m += v u.
    fn multiply(&self, operands: Operands);
}

/// Of the products of some tiles, for one or two panels and a multiple of [`Numbers::BLOCKS`] lines of inputs, or the last.
pub struct Operands<'a> {
    pub points: usize,
    pub blocks: Range<usize>,
    pub tiles: Range<usize>,
    /// Lines from one point to the next in v, u and m.
    pub strides: [usize; 3],
    /// Lines from one line of inputs to the next in v, and from one panel to the next in u.
    pub block: usize,
    pub panel: usize,
    pub v: &'a [Line],
    pub u: &'a [Line],
    pub m: &'a mut [Line],
    /// Whether m is written, and not added to.
    pub first: bool,
}

impl Operands<'_> {
    /// In runs of so many lines of inputs.
    fn multiply<A: Arithmetic>(self, arithmetic: A, run: usize) {
        let Operands { points, blocks, tiles, strides, block: pitch, panel, v, u, m, first } = self;
        let (blocks, tiles, u) = (blocks.len(), tiles.len(), halves(u, panel));
        Products { arithmetic, points, blocks, run, tiles, strides, pitch, v, u, m, first }.make();
    }
}
