//! GroupNorm (Wu and He 2018), with SiLU and dropout after it, forward and backward.
//!
//! One image is worked on in chunks of pixels. The size of a chunk depends on the channels alone, and what chunks add up is
//! added in their order, so results do not depend on the threads.

mod backward;
pub mod dropout;
mod forward;
#[cfg(test)]
mod tests;

pub use backward::{backward, Gradients, Target};
pub use forward::forward;

use crate::error::{check_len, Error, Result};
use crate::simd::{Line, Simd, LANES};
use crate::source::{Images, Source};
use std::ops::Range;

/// The layer: y = dropout(silu(weight * (x - mean) * rstd + bias)), mean and 1 / sqrt(var + eps) taken over each group of
/// channels of each image; SiLU and dropout only where asked for.
#[derive(Clone, Copy)]
pub struct GroupNorm<'a> {
    pub groups: usize,
    pub eps: f32,
    /// (channels)
    pub weight: &'a [f32],
    /// (channels)
    pub bias: &'a [f32],
    pub silu: bool,
    pub dropout: Option<Dropout<'a>>,
}

/// Each element is zeroed where `kept` is 0 and scaled by 1 / (1 - p) where it is 1.
#[derive(Clone, Copy)]
pub struct Dropout<'a> {
    /// In [0, 1).
    pub p: f64,
    /// (N, H, W, C), of 0 and 1.
    pub kept: &'a [u8],
}

impl<'a> Dropout<'a> {
    /// The factors of one row of channels, `places` counted over the whole tensor.
    #[inline(always)]
    fn row(&self, places: Range<usize>) -> DropoutRow<'a> {
        DropoutRow { kept: &self.kept[places], scale: 1.0 / (1.0 - self.p) as f32 }
    }
}

/// Dropout of the channels of one pixel.
#[derive(Clone, Copy)]
struct DropoutRow<'a> {
    kept: &'a [u8],
    scale: f32,
}

impl DropoutRow<'_> {
    /// The factors, 0 or 1 / (1 - p), of 16 channels from `first` on.
    #[inline(always)]
    fn factors<S: Simd>(&self, s: S, first: usize) -> S::V {
        let kept = &self.kept[first..];
        let mut out = [0.0; LANES];
        match kept.first_chunk::<LANES>() {
            Some(kept) => out = kept.map(f32::from),
            None => out.iter_mut().zip(kept).for_each(|(out, &kept)| *out = f32::from(kept)),
        }
        s.mul(s.load(&out), s.splat(self.scale))
    }
}

impl GroupNorm<'_> {
    fn check(&self, images: Images, channels: usize) -> Result {
        check_len("weight", self.weight.len(), channels)?;
        check_len("bias", self.bias.len(), channels)?;
        if self.groups == 0 || !channels.is_multiple_of(self.groups) {
            return Err(Error::Misfit(format!("groups is {}; it must divide the {channels} channels", self.groups)));
        }
        let Some(Dropout { p, kept }) = self.dropout else { return Ok(()) };
        if !(0.0..1.0).contains(&p) {
            return Err(Error::Misfit(format!("dropout probability is {p}; it must be in [0, 1)")));
        }
        check_len("kept", kept.len(), images.batch * images.pixels() * channels)
    }
}

/// What 16 channels of one image are read with. Lanes beyond the last channel are zero.
struct Block {
    shift: Line,
    mean: Line,
    rstd: Line,
    weight: Line,
    bias: Line,
}

/// One image of the input with its coefficients, the parts' one after the other.
struct Image<'a, T> {
    source: &'a Source<'a, T>,
    layer: &'a GroupNorm<'a>,
    index: usize,
    pixels: usize,
    blocks: [Vec<Block>; 2],
}

impl<'a, T> Image<'a, T> {
    /// `mean` and `rstd` are of the groups of this image; empty as long as they are not known.
    fn new(
        source: &'a Source<T>,
        layer: &'a GroupNorm,
        index: usize,
        pixels: usize,
        mean: &[f32],
        rstd: &[f32],
    ) -> Self {
        let channels = source.channels();
        let width = channels / layer.groups;
        let value = |c: usize, of: &[f32]| of.get(c / width).copied().unwrap_or(0.0);
        let mut image = Image { source, layer, index, pixels, blocks: [Vec::new(), Vec::new()] };
        for (k, (offset, part)) in source.placed().enumerate() {
            for lo in (0..part.channels).step_by(LANES) {
                let places = offset + lo..offset + part.channels.min(lo + LANES);
                let line = |f: &dyn Fn(usize) -> f32| {
                    let mut line = Line::ZERO;
                    line.0.iter_mut().zip(places.clone()).for_each(|(x, c)| *x = f(c));
                    line
                };
                image.blocks[k].push(Block {
                    shift: line(&|c| source.shift.map_or(0.0, |shift| shift[index * channels + c])),
                    mean: line(&|c| value(c, mean)),
                    rstd: line(&|c| value(c, rstd)),
                    weight: line(&|c| layer.weight[c]),
                    bias: line(&|c| layer.bias[c]),
                });
            }
        }
        image
    }

    /// The pixels, counted over the batch, of some chunks of this image.
    fn rows(&self, chunks: &Chunks, which: Range<usize>) -> Range<usize> {
        let start = self.index * self.pixels;
        start + which.start * chunks.pixels..start + (which.end * chunks.pixels).min(self.pixels)
    }
}

/// How an image is cut up.
struct Chunks {
    /// Pixels in each chunk but the last.
    pixels: usize,
    count: usize,
}

impl Chunks {
    /// A chunk stays within the first-level cache while it is read twice.
    const ELEMENTS: usize = 4096;

    fn new(pixels: usize, channels: usize) -> Self {
        let each = (Self::ELEMENTS / channels).clamp(4, 256).min(pixels);
        Chunks { pixels: each, count: pixels.div_ceil(each) }
    }

    /// The chunks of task `i` of `tasks`.
    fn of_task(&self, i: usize, tasks: usize) -> Range<usize> {
        i * self.count / tasks..(i + 1) * self.count / tasks
    }
}
