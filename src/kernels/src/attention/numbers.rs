//! What the products of a head are made of: floats here, whole numbers in [`super::whole`].

use super::Heads;
use crate::error::Result;
use crate::pool::scratch::sized;
use crate::products::rows::{transpose, ByRow, Rows};
use crate::products::{multiply, Floats, Operands, RUN};
use crate::simd::element::Element;
use crate::simd::{dispatch, Line, LANES};

/// The keys and values of a head, as some kind of numbers.
pub trait Numbers<T> {
    /// Whether probabilities are whole numbers, a line for two panels of keys.
    const WHOLE: bool;

    /// Scores of some queries in base 2, `m[panel of keys][query]`. `block` is room for the queries.
    fn scores(&self, queries: Rows<T>, block: &mut Vec<Line>, m: &mut [Line]) -> Result;

    /// The values mixed for so many queries, `m[block of channels][query]`.
    fn mix(&self, queries: usize, probabilities: &[Line], m: &mut [Line]);
}

pub struct Float<'a> {
    heads: &'a Heads,
    keys: &'a [Line],
    values: &'a [Line],
}

impl<'a> Float<'a> {
    pub fn new<T: Element>(
        heads: &'a Heads,
        [k, v]: [Rows<T>; 2],
        [keys, values]: [&'a mut Vec<Line>; 2],
    ) -> Result<Self> {
        let (blocks, panels) = (heads.blocks(), heads.panels());
        let keys = sized(keys, panels * blocks * LANES)?;
        transpose(k, blocks * LANES, keys);
        let values = sized(values, blocks * panels * LANES)?;
        dispatch(ByRow { rows: v, factor: 1.0, height: panels * LANES, to: values });
        Ok(Float { heads, keys, values })
    }
}

impl<T: Element> Numbers<T> for Float<'_> {
    const WHOLE: bool = false;

    fn scores(&self, queries: Rows<T>, block: &mut Vec<Line>, m: &mut [Line]) -> Result {
        let (blocks, tiles) = (self.heads.blocks(), queries.count);
        let block = sized(block, blocks * tiles)?;
        dispatch(ByRow { rows: queries, factor: self.heads.factor(), height: tiles, to: block });
        multiply(Operands { arithmetic: Floats, tiles, blocks, run: RUN, v: block, u: self.keys, m, first: true });
        Ok(())
    }

    fn mix(&self, tiles: usize, v: &[Line], m: &mut [Line]) {
        let blocks = self.heads.panels();
        multiply(Operands { arithmetic: Floats, tiles, blocks, run: RUN, v, u: self.values, m, first: true });
    }
}
