//! The forward pass: statistics of every group, then the values.

use super::{Block, Chunks, GroupNorm, Image};
use crate::error::{check_len, Result};
use crate::pool::scratch::filled;
use crate::pool::split::Split;
use crate::pool::{for_each_image, run, Pool};
use crate::simd::element::{load, store, Element};
use crate::simd::math::sigmoid;
use crate::simd::{dispatch, Kernel, Simd, LANES};
use crate::source::{Images, Source};
use std::ops::Range;

/// Writes y (N, H, W, C) and the groups' mean and rstd (N, groups).
///
/// # Errors
/// When a length does not fit `images` and the channels, groups do not divide the channels, or dropout's p is not in [0, 1).
pub fn forward<T: Element>(
    pool: &dyn Pool,
    images: Images,
    x: &Source<T>,
    layer: &GroupNorm,
    y: &mut [T],
    mean: &mut [f32],
    rstd: &mut [f32],
) -> Result {
    let channels = x.channels();
    x.check(images)?;
    layer.check(images, channels)?;
    check_len("y", y.len(), images.batch * images.pixels() * channels)?;
    check_len("mean", mean.len(), images.batch * layer.groups)?;
    check_len("rstd", rstd.len(), images.batch * layer.groups)?;

    let chunks = Chunks::new(images.pixels(), channels);
    let image_size = images.pixels() * channels;
    let ys = Split::new(y, images.batch, |b| (b + 1) * image_size);
    let means = Split::new(mean, images.batch, |b| (b + 1) * layer.groups);
    let rstds = Split::new(rstd, images.batch, |b| (b + 1) * layer.groups);
    for_each_image(pool, images.batch, |b, pool| {
        let (y, mean, rstd) = (ys.take(b), means.take(b), rstds.take(b));
        let tasks = pool.threads().min(chunks.count);

        let image = Image::new(x, layer, b, images.pixels(), &[], &[]);
        let mut sums = filled(0.0, chunks.count * 3 * channels)?;
        let shares = Split::new(&mut sums, tasks, |i| chunks.of_task(i, tasks).end * 3 * channels);
        run(pool, tasks, |i| {
            for (k, sums) in chunks.of_task(i, tasks).zip(shares.take(i).chunks_exact_mut(3 * channels)) {
                dispatch(Moments { image: &image, rows: image.rows(&chunks, k..k + 1), sums });
            }
            Ok(())
        })?;
        drop(shares);
        statistics(&image, &chunks, &sums, mean, rstd);

        let image = Image::new(x, layer, b, images.pixels(), mean, rstd);
        let shares = Split::new(y, tasks, |i| chunks.of_task(i, tasks).end * chunks.pixels * channels);
        run(pool, tasks, |i| {
            dispatch(Apply { image: &image, rows: image.rows(&chunks, chunks.of_task(i, tasks)), y: shares.take(i) });
            Ok(())
        })
    })
}

/// First and second moments of each channel in a chunk about a pivot near its mean: pivots, sums, sums of squares, each
/// (channels). The pivot keeps the precision when the mean is far larger than the spread.
struct Moments<'a, T> {
    image: &'a Image<'a, T>,
    rows: Range<usize>,
    sums: &'a mut [f32],
}

impl<T: Element> Kernel for Moments<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let channels = self.image.source.channels();
        let rows = self.rows;
        let per_pixel = s.splat(1.0 / rows.len() as f32);
        let (pivots, rest) = self.sums.split_at_mut(channels);
        let (firsts, seconds) = rest.split_at_mut(channels);
        for ((offset, part), blocks) in self.image.source.placed().zip(&self.image.blocks) {
            let data = &part.data[rows.start * part.channels..rows.end * part.channels];
            let own = offset..offset + part.channels;
            let (pivots, firsts, seconds) =
                (&mut pivots[own.clone()], &mut firsts[own.clone()], &mut seconds[own.clone()]);
            for row in data.chunks_exact(part.channels) {
                for ((block, x), sum) in blocks.iter().zip(row.chunks(LANES)).zip(firsts.chunks_mut(LANES)) {
                    store(s, sum, s.add(load(s, sum), value(s, block, x)));
                }
            }
            for (pivot, sum) in pivots.chunks_mut(LANES).zip(firsts.chunks_mut(LANES)) {
                store(s, pivot, s.mul(load(s, sum), per_pixel));
                store(s, sum, s.splat(0.0));
            }
            for row in data.chunks_exact(part.channels) {
                let sums = firsts.chunks_mut(LANES).zip(seconds.chunks_mut(LANES));
                for (((block, x), pivot), (first, second)) in
                    blocks.iter().zip(row.chunks(LANES)).zip(pivots.chunks(LANES)).zip(sums)
                {
                    let d = s.sub(value(s, block, x), load(s, pivot));
                    store(s, first, s.add(load(s, first), d));
                    store(s, second, s.fma(d, d, load(s, second)));
                }
            }
        }
    }
}

/// x + shift.
#[inline(always)]
pub(super) fn value<S: Simd, T: Element>(s: S, block: &Block, x: &[T]) -> S::V {
    s.add(load(s, x), s.load(&block.shift.0))
}

/// Mean and 1 / sqrt(variance + eps) of each group from the moments of chunks and channels, in f64.
fn statistics<T>(image: &Image<T>, chunks: &Chunks, sums: &[f32], mean: &mut [f32], rstd: &mut [f32]) {
    let channels = image.source.channels();
    let width = channels / image.layer.groups;
    for (group, (mean, rstd)) in mean.iter_mut().zip(rstd).enumerate() {
        // (pixels, mean, sum of squared deviations) of every chunk and channel of the group.
        let moments = || {
            sums.chunks_exact(3 * channels).enumerate().flat_map(move |(k, sums)| {
                let n = image.rows(chunks, k..k + 1).len() as f64;
                (group * width..(group + 1) * width).map(move |c| {
                    let first = f64::from(sums[channels + c]);
                    let second = f64::from(sums[2 * channels + c]);
                    (n, f64::from(sums[c]) + first / n, second - first * first / n)
                })
            })
        };
        let count = (image.pixels * width) as f64;
        let whole = moments().map(|(n, mean, _)| n * mean).sum::<f64>() / count;
        let spread = moments().map(|(n, mean, m2)| m2.max(0.0) + n * (mean - whole).powi(2)).sum::<f64>() / count;
        *mean = whole as f32;
        *rstd = (1.0 / (spread + f64::from(image.layer.eps)).sqrt()) as f32;
    }
}

/// The values of one chunk.
struct Apply<'a, T> {
    image: &'a Image<'a, T>,
    rows: Range<usize>,
    y: &'a mut [T],
}

impl<T: Element> Kernel for Apply<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (layer, channels) = (self.image.layer, self.image.source.channels());
        for (place, y) in self.rows.zip(self.y.chunks_exact_mut(channels)) {
            let dropout = layer.dropout.map(|dropout| dropout.row(place * channels..(place + 1) * channels));
            for ((offset, part), blocks) in self.image.source.placed().zip(&self.image.blocks) {
                let row = &part.data[place * part.channels..(place + 1) * part.channels];
                let y = &mut y[offset..offset + part.channels];
                for (i, ((block, x), y)) in blocks.iter().zip(row.chunks(LANES)).zip(y.chunks_mut(LANES)).enumerate() {
                    let mut z = s.fma(normalised(s, block, x), s.load(&block.weight.0), s.load(&block.bias.0));
                    if layer.silu {
                        z = s.mul(z, sigmoid(s, z));
                    }
                    if let Some(dropout) = dropout {
                        z = s.mul(z, dropout.factors(s, offset + i * LANES));
                    }
                    store(s, y, z);
                }
            }
        }
    }
}

/// (x + shift - mean) * rstd.
#[inline(always)]
pub(super) fn normalised<S: Simd, T: Element>(s: S, block: &Block, x: &[T]) -> S::V {
    s.mul(s.sub(value(s, block, x), s.load(&block.mean.0)), s.load(&block.rstd.0))
}
