//! Products in whole numbers of 16 bits: what images of bfloat16 are multiplied in where the processor makes two of these
//! products in the time of one of floats.
//!
//! Inputs and filters at the points are scaled and rounded, and the products of a stretch of channels added up in 32 bits. That
//! no sum can overflow is Cauchy and Schwarz's inequality: a stretch of inputs, as a vector, is no longer than the longest
//! of the image's pixels times what the scheme may make of it, a stretch of the filter no longer than its taps allow; scales
//! bring both below bounds whose product is 2^31. A scale of inputs belongs to a stretch of an image, one of the filter to a
//! stretch, an output and a point: results depend neither on the other images nor on how the work is shared out.

use std::ops::Range;

use super::pairs::{Largest, PackPairs, ToPairs, STRETCH, TAPS_OF_STRETCH};
use super::{Numbers, Operands};
use crate::conv::filter::Filter;
use crate::conv::method::{with_scheme, Way};
use crate::conv::scheme::Scheme;
use crate::conv::tile::{All, Grid, ToPoints};
use crate::error::Result;
use crate::pool::scratch::{filled, lend, sized};
use crate::pool::split::Split;
use crate::pool::Pool;
use crate::products::pairs::{whole, Pairs, LINE, MOST};
use crate::products::Arithmetic;
use crate::simd::element::Element;
use crate::simd::{dispatch, Line, LANES};
use crate::source::Source;
use std::marker::PhantomData;

/// The largest norm of a stretch of inputs. Rounding adds at most 6 to it, and to [`super::pairs::NORM`], the filter's: their
/// product stays below 2^31.
const LENGTH: f32 = 65_500.0;

/// A line holds 32 channels: in each lane one of the first 16 and one of the last.
pub struct Whole {
    stretches: usize,
    /// What the inputs are multiplied with, `there[image * stretches + stretch]`, and what undoes it, `back[stretch * tiles +
    /// tile]`, over all tiles.
    there: Vec<f32>,
    back: Vec<f32>,
    tiles: usize,
}

impl Whole {
    /// The scales of a source's stretches, if that is what its products are to be made in.
    pub fn of<T: Element>(pool: &dyn Pool, source: &Source<T>, grid: &Grid) -> Result<Option<Self>> {
        let [part, second] = source.parts;
        if !whole::<T>() || second.channels > 0 || part.channels % LINE != 0 {
            return Ok(None);
        }
        let stretches = part.channels.div_ceil(STRETCH);
        let count = grid.from.batch * stretches;
        let mut there = filled(0.0, count)?;
        let size = grid.from.pixels() * part.channels;
        let shares = Split::new(&mut there, count, |k| k + 1);
        pool.run(count, &|k| {
            let (image, first) = (k / stretches, k % stretches * STRETCH);
            let channels = first..part.channels.min(first + STRETCH);
            let image = &part.data[image * size..][..size];
            shares.take(k)[0] = scale(channels.len(), dispatch(Largest { image, all: part.channels, channels }));
        })?;
        drop(shares);
        let (tiles, of_image) = (grid.count(), grid.tiles[0] * grid.tiles[1]);
        let mut back = filled(0.0, stretches * tiles)?;
        for (k, scales) in back.chunks_exact_mut(of_image).enumerate() {
            scales.fill(there[k % grid.from.batch * stretches + k / grid.from.batch]);
        }
        there.iter_mut().for_each(|scale| *scale = 1.0 / *scale);
        Ok(Some(Whole { stretches, there, back, tiles }))
    }
}

/// What a stretch of so many channels is divided by; NaN if it cannot be held in whole numbers.
fn scale(channels: usize, [largest, square]: [f32; 2]) -> f32 {
    // Squares of numbers near the ends of float32's range are none.
    let bound = largest * (channels as f32).sqrt();
    let longest = if (1e-30..1e30).contains(&square) { square.sqrt() } else { bound };
    match (largest / MOST).max(longest / LENGTH) {
        scale if scale < 1e30 && largest < 1e34 => scale.max(1e-30),
        _ => f32::NAN,
    }
}

impl Numbers for Whole {
    const BLOCKS: usize = STRETCH / LINE;

    fn blocks(&self, filter: &Filter) -> usize {
        filter.inputs[0] / LINE
    }

    /// Of each stretch a line more, for what undoes the scales of its outputs.
    fn filter_lines(&self, blocks: usize) -> usize {
        Pairs::panel(blocks, Self::BLOCKS)
    }

    fn pack(&self, filter: &Filter, panel: usize, blocks: Range<usize>, pitch: usize, u: &mut [Line]) -> Result {
        let outputs = panel * LANES..filter.outputs.min((panel + 1) * LANES);
        lend(|[taps]| {
            let taps = sized(taps, TAPS_OF_STRETCH)?;
            for (stretch, block) in blocks.clone().step_by(Self::BLOCKS).enumerate() {
                let inputs = block * LINE..blocks.end.min(block + Self::BLOCKS) * LINE;
                let (taps, lines, outputs) = (&mut *taps, &mut *u, outputs.clone());
                let places = [stretch * Self::BLOCKS * LANES, blocks.len() * LANES + stretch];
                with_scheme!(filter.way, K => {
                    dispatch(PackPairs { filter, outputs, inputs, taps, pitch, places, lines, scheme: PhantomData::<K> })
                });
            }
            Ok(())
        })
    }

    fn to_points<T: Element, K: Scheme<W, P, M>, const W: usize, const P: usize, const M: usize>(
        &self,
        points: ToPoints<T, K, All, W, P, M>,
    ) {
        dispatch(ToPairs { points, scales: &self.there, stretches: self.stretches });
    }

    fn multiply(&self, operands: Operands) {
        let scales = &self.back[operands.blocks.start / Self::BLOCKS * self.tiles + operands.tiles.start..];
        operands.multiply(Pairs { scales, pitch: self.tiles }, Self::BLOCKS);
    }
}
