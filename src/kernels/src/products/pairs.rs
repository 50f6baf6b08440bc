//! Whole numbers of 16 bits, two to a lane ([`crate::simd::Simd::pair`]), for the products of [`super::Products`].
//!
//! Blocks are of 32 inputs. A panel's weights at a point are 16 lines for each block, which hold a pair for each of the panel's
//! 16 outputs, and then, for each run of blocks, a line that undoes the outputs' scales. Sums over a run are whole
//! numbers of 32 bits, which whoever chooses the scales keeps from overflowing.

use super::Arithmetic;
use crate::simd::element::Element;
use crate::simd::{has_short_products, LANES};
use std::sync::atomic::{AtomicU8, Ordering};

static CHOICE: AtomicU8 = AtomicU8::new(0);

/// Says whether bfloat16 is multiplied in whole numbers, in the whole process, whatever suits the processor best (for tests and
/// measurements); `None` leaves it to that.
pub fn choose_whole(whole: Option<bool>) {
    CHOICE.store(whole.map_or(0, |whole| 1 + u8::from(whole)), Ordering::Relaxed);
}

/// Whether tensors of T are multiplied in whole numbers.
pub fn whole<T: Element>() -> bool {
    T::SHORT
        && match CHOICE.load(Ordering::Relaxed) {
            0 => has_short_products(),
            choice => choice == 2,
        }
}

/// Whole numbers in a line.
pub const LINE: usize = 2 * LANES;
/// The largest of them.
pub const MOST: f32 = 32767.0;

/// Of pairs, with what undoes the scales of the inputs: `scales[run * pitch + tile]`.
#[derive(Clone, Copy)]
pub struct Pairs<'a> {
    pub scales: &'a [f32],
    pub pitch: usize,
}

impl Arithmetic for Pairs<'_> {
    const WHOLE: bool = true;

    fn panel(blocks: usize, run: usize) -> usize {
        blocks * LANES + blocks.div_ceil(run)
    }

    #[inline(always)]
    fn scales<const R: usize>(&self, run: usize, tile: usize) -> Option<&[f32; R]> {
        self.scales[run * self.pitch + tile..].first_chunk()
    }
}
