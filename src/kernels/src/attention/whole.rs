//! Queries, keys and values in whole numbers of 16 bits.
//!
//! Queries and keys are scaled as rows of any matrix are ([`crate::products::packing`]). Probabilities, of which the largest
//! of a row is 1, are multiplied with 32767, and values scaled so that over a stretch of 64 keys no channel is longer than
//! 8150, 2^31 / (32767 * 8) less what rounding adds.

use super::numbers::Numbers;
use super::{Heads, MOST_ROWS};
use crate::error::Result;
use crate::pool::scratch::sized;
use crate::products::packing::{part, RowsToPanels, RowsToTiles};
use crate::products::pairs::{Pairs, LINE, MOST};
use crate::products::rows::Rows;
use crate::products::{multiply, Arithmetic, Operands};
use crate::simd::element::Element;
use crate::simd::{dispatch, Kernel, Line, Simd, LANES};

/// Fewer positions are not worth the packing.
pub const LEAST: usize = 64;
/// Lines of 32 keys whose products are added up in whole numbers.
const STRETCH: usize = 2;
const VALUES: f32 = 8_150.0;
/// The least that anything is divided by: squares of numbers that small are none.
const FLOOR: f32 = 3e-20;

/// The keys and values of a head.
pub struct Whole<'a> {
    heads: &'a Heads,
    keys: &'a [Line],
    values: &'a [Line],
}

impl<'a> Whole<'a> {
    pub fn new<T: Element>(
        heads: &'a Heads,
        [k, v]: [Rows<T>; 2],
        [keys, values]: [&'a mut Vec<Line>; 2],
    ) -> Result<Self> {
        let keys = sized(keys, heads.panels() * Pairs::panel(deep(heads), deep(heads)))?;
        dispatch(RowsToPanels { rows: k, to: keys });
        let values = sized(values, heads.blocks() * Pairs::panel(long(heads), STRETCH))?;
        dispatch(PackValues { rows: v, lines: long(heads), to: values });
        Ok(Whole { heads, keys, values })
    }
}

impl<T: Element> Numbers<T> for Whole<'_> {
    const WHOLE: bool = true;

    fn scores(&self, queries: Rows<T>, block: &mut Vec<Line>, m: &mut [Line]) -> Result {
        let (deep, tiles) = (deep(self.heads), queries.count);
        let block = sized(block, deep * tiles)?;
        let mut scales = [0.0; MOST_ROWS];
        dispatch(RowsToTiles { rows: queries, factor: self.heads.factor(), to: block, scales: &mut scales });
        let arithmetic = Pairs { scales: &scales, pitch: 0 };
        multiply(Operands { arithmetic, tiles, blocks: deep, run: deep, v: block, u: self.keys, m, first: true });
        Ok(())
    }

    fn mix(&self, tiles: usize, v: &[Line], m: &mut [Line]) {
        let arithmetic = Pairs { scales: &[1.0; MOST_ROWS], pitch: 0 };
        let (blocks, u) = (long(self.heads), self.values);
        multiply(Operands { arithmetic, tiles, blocks, run: STRETCH, v, u, m, first: true });
    }
}

/// Lines of 32 channels.
fn deep(heads: &Heads) -> usize {
    heads.width.div_ceil(LINE)
}

/// Lines of 32 keys.
fn long(heads: &Heads) -> usize {
    heads.positions.div_ceil(LINE)
}

/// Values in panels of 16 channels, as [`crate::products::pairs`] has weights: pairs of keys, and what undoes the scales of each
/// stretch of them and of the probabilities.
struct PackValues<'a, T> {
    rows: Rows<'a, T>,
    /// Of 32 keys.
    lines: usize,
    to: &'a mut [Line],
}

impl<T: Element> Kernel for PackValues<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let PackValues { rows, lines, to } = self;
        for (index, to) in to.chunks_exact_mut(Pairs::panel(lines, STRETCH)).enumerate() {
            let channel = index * LANES;
            for (stretch, first) in (0..lines).step_by(STRETCH).enumerate() {
                let own = first..lines.min(first + STRETCH);
                let mut square = s.splat(0.0);
                for key in own.start * 2 * LANES..own.end * 2 * LANES {
                    let x = part(s, &rows, key, channel);
                    square = s.fma(x, x, square);
                }
                let back = s.max(s.splat(FLOOR), s.mul(s.sqrt(square), s.splat(1.0 / VALUES)));
                let scale = s.div(s.splat(1.0), back);
                for line in own {
                    for i in 0..LANES {
                        let low = part(s, &rows, 2 * line * LANES + i, channel);
                        let high = part(s, &rows, (2 * line + 1) * LANES + i, channel);
                        s.store(&mut to[line * LANES + i].0, s.pair(s.mul(low, scale), s.mul(high, scale)));
                    }
                }
                s.store(&mut to[lines * LANES + stretch].0, s.mul(back, s.splat(1.0 / MOST)));
            }
        }
    }
}
