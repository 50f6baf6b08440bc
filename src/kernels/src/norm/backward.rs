//! The backward pass: sums over pixels, then the gradient of the input.
//!
//! With h the normalised value, dz the gradient before SiLU and dropout and n the elements of a group,
//! dx = rstd * (w dz - (sum(w dz) + h sum(w dz h)) / n), sums over the group.

use super::forward::normalised;
use super::{Block, Chunks, DropoutRow, GroupNorm, Image};
use crate::error::{check_len, Result};
use crate::pool::scratch::filled;
use crate::pool::split::Split;
use crate::pool::{for_each_image, run, Pool};
use crate::simd::element::{load, store, Element};
use crate::simd::math::silu_slope;
use crate::simd::{dispatch, Kernel, Simd, LANES};
use crate::source::{Images, Source};
use std::ops::Range;

/// A gradient of one part of the input: written, or added to what is there.
pub struct Target<'a, T> {
    pub data: &'a mut [T],
    pub add: bool,
}

/// Where the gradients go.
pub struct Gradients<'a, T> {
    /// Of the input's parts; the second is empty when the input has one part.
    pub parts: [Target<'a, T>; 2],
    /// (channels), overwritten.
    pub weight: &'a mut [f32],
    /// (channels), overwritten.
    pub bias: &'a mut [f32],
    /// (N, channels), overwritten.
    pub shift: Option<&'a mut [f32]>,
}

/// Gradients of [`super::forward`] from dy (N, H, W, C), the same input and layer, and the mean and rstd it wrote.
///
/// # Errors
/// As for `forward`.
pub fn backward<T: Element>(
    pool: &dyn Pool,
    images: Images,
    x: &Source<T>,
    layer: &GroupNorm,
    (mean, rstd): (&[f32], &[f32]),
    dy: &[T],
    gradients: Gradients<T>,
) -> Result {
    let channels = x.channels();
    let Gradients { parts: [first, second], weight, bias, shift } = gradients;
    x.check(images)?;
    layer.check(images, channels)?;
    check_len("dy", dy.len(), images.batch * images.pixels() * channels)?;
    check_len("mean", mean.len(), images.batch * layer.groups)?;
    check_len("rstd", rstd.len(), images.batch * layer.groups)?;
    check_len("the gradient of the first input", first.data.len(), x.parts[0].data.len())?;
    check_len("the gradient of the second input", second.data.len(), x.parts[1].data.len())?;
    check_len("the gradient of weight", weight.len(), channels)?;
    check_len("the gradient of bias", bias.len(), channels)?;
    if let Some(shift) = &shift {
        check_len("the gradient of shift", shift.len(), images.batch * channels)?;
    }

    let chunks = Chunks::new(images.pixels(), channels);
    let widths = x.parts.each_ref().map(|part| part.channels);
    let adds = [first.add, second.add];
    let [firsts, seconds] = [(first, widths[0]), (second, widths[1])]
        .map(|(part, width)| Split::new(part.data, images.batch, |b| (b + 1) * images.pixels() * width));
    let shifts = shift.map(|shift| Split::new(shift, images.batch, |b| (b + 1) * channels));
    let mut totals = filled(0.0, images.batch * SUMS * channels)?;
    let shares = Split::new(&mut totals, images.batch, |b| (b + 1) * SUMS * channels);
    for_each_image(pool, images.batch, |b, pool| {
        let groups = b * layer.groups..(b + 1) * layer.groups;
        let image = Image::new(x, layer, b, images.pixels(), &mean[groups.clone()], &rstd[groups]);
        let totals = shares.take(b);
        reduce(pool, &image, &chunks, dy, totals)?;
        let means = group_means(&image, totals);
        if let Some(shifts) = &shifts {
            shift_gradient(&image, totals, &means, shifts.take(b));
        }

        let tasks = pool.threads().min(chunks.count);
        let [firsts, seconds] = [(firsts.take(b), widths[0]), (seconds.take(b), widths[1])]
            .map(|(dx, width)| Split::new(dx, tasks, |i| chunks.of_task(i, tasks).end * chunks.pixels * width));
        run(pool, tasks, |i| {
            let rows = image.rows(&chunks, chunks.of_task(i, tasks));
            let dx = [firsts.take(i), seconds.take(i)];
            dispatch(Slope { image: &image, rows, dy, means: &means, dx, adds });
            Ok(())
        })
    })?;
    drop(shares);
    sum_over_batch(&totals, images.batch, weight, bias);
    Ok(())
}

/// The layer's own gradients, from the sums of each image.
fn sum_over_batch(totals: &[f64], batch: usize, weight: &mut [f32], bias: &mut [f32]) {
    let channels = weight.len();
    for c in 0..channels {
        let over_batch = |k: usize| (0..batch).map(|b| totals[(b * SUMS + k) * channels + c]).sum::<f64>() as f32;
        bias[c] = over_batch(0);
        weight[c] = over_batch(1);
    }
}

/// Sums kept per channel: of dz, of dz h, and of h.
const SUMS: usize = 3;

/// The sums of one image, (3, channels), chunk after chunk.
fn reduce<T: Element>(pool: &dyn Pool, image: &Image<T>, chunks: &Chunks, dy: &[T], totals: &mut [f64]) -> Result {
    let size = totals.len();
    let tasks = pool.threads().min(chunks.count);
    let mut sums = filled(0.0, chunks.count * size)?;
    let shares = Split::new(&mut sums, tasks, |i| chunks.of_task(i, tasks).end * size);
    run(pool, tasks, |i| {
        for (k, sums) in chunks.of_task(i, tasks).zip(shares.take(i).chunks_exact_mut(size)) {
            dispatch(Reduce { image, rows: image.rows(chunks, k..k + 1), dy, sums });
        }
        Ok(())
    })?;
    drop(shares);
    for sums in sums.chunks_exact(size) {
        totals.iter_mut().zip(sums).for_each(|(total, &sum)| *total += f64::from(sum));
    }
    Ok(())
}

/// Per channel, the means over its group of w dz and of w dz h.
fn group_means<T>(image: &Image<T>, totals: &[f64]) -> [Vec<f32>; 2] {
    let channels = image.source.channels();
    let width = channels / image.layer.groups;
    let count = (image.pixels * width) as f64;
    [0, 1].map(|k| {
        let weighted = |c: usize| f64::from(image.layer.weight[c]) * totals[k * channels + c];
        let mean = |c: usize| (c / width * width..(c / width + 1) * width).map(weighted).sum::<f64>() / count;
        (0..channels).map(|c| mean(c) as f32).collect()
    })
}

/// The sum of dx over the pixels of each channel.
fn shift_gradient<T>(image: &Image<T>, totals: &[f64], means: &[Vec<f32>; 2], out: &mut [f32]) {
    let channels = image.source.channels();
    let rstd = image
        .source
        .placed()
        .zip(&image.blocks)
        .flat_map(|((_, part), blocks)| (0..part.channels).map(|c| f64::from(blocks[c / LANES].rstd.0[c % LANES])));
    for ((c, out), rstd) in out.iter_mut().enumerate().zip(rstd) {
        let of_dz = f64::from(image.layer.weight[c]) * totals[c];
        let of_means = f64::from(means[0][c]) * image.pixels as f64 + f64::from(means[1][c]) * totals[2 * channels + c];
        *out = (rstd * (of_dz - of_means)) as f32;
    }
}

/// The gradient of the layer's affine output: dy through dropout and SiLU.
#[inline(always)]
fn before_activation<S: Simd, T: Element>(
    s: S,
    layer: &GroupNorm,
    block: &Block,
    h: S::V,
    dy: &[T],
    dropout: Option<(DropoutRow, usize)>,
) -> S::V {
    let mut dz = load(s, dy);
    if let Some((dropout, channel)) = dropout {
        dz = s.mul(dz, dropout.factors(s, channel));
    }
    if layer.silu {
        dz = s.mul(dz, silu_slope(s, s.fma(h, s.load(&block.weight.0), s.load(&block.bias.0))));
    }
    dz
}

/// Sums of one chunk, (3, channels).
struct Reduce<'a, T> {
    image: &'a Image<'a, T>,
    rows: Range<usize>,
    dy: &'a [T],
    sums: &'a mut [f32],
}

impl<T: Element> Kernel for Reduce<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (layer, channels) = (self.image.layer, self.image.source.channels());
        let (dzs, rest) = self.sums.split_at_mut(channels);
        let (dzhs, hs) = rest.split_at_mut(channels);
        for place in self.rows {
            let dropout = layer.dropout.map(|dropout| dropout.row(place * channels..(place + 1) * channels));
            for ((offset, part), blocks) in self.image.source.placed().zip(&self.image.blocks) {
                let row = &part.data[place * part.channels..(place + 1) * part.channels];
                let dy = &self.dy[place * channels + offset..][..part.channels];
                let own = offset..offset + part.channels;
                let sums = dzs[own.clone()]
                    .chunks_mut(LANES)
                    .zip(dzhs[own.clone()].chunks_mut(LANES))
                    .zip(hs[own].chunks_mut(LANES));
                let inputs = blocks.iter().zip(row.chunks(LANES)).zip(dy.chunks(LANES));
                for (i, (((block, x), dy), ((dz_sum, dzh_sum), h_sum))) in inputs.zip(sums).enumerate() {
                    let h = normalised(s, block, x);
                    let dropout = dropout.map(|row| (row, offset + i * LANES));
                    let dz = before_activation(s, layer, block, h, dy, dropout);
                    store(s, dz_sum, s.add(load(s, dz_sum), dz));
                    store(s, dzh_sum, s.fma(dz, h, load(s, dzh_sum)));
                    store(s, h_sum, s.add(load(s, h_sum), h));
                }
            }
        }
    }
}

/// The gradient of the input at some pixels.
struct Slope<'a, T> {
    image: &'a Image<'a, T>,
    rows: Range<usize>,
    dy: &'a [T],
    means: &'a [Vec<f32>; 2],
    dx: [&'a mut [T]; 2],
    adds: [bool; 2],
}

impl<T: Element> Kernel for Slope<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (layer, channels) = (self.image.layer, self.image.source.channels());
        let [first, second] = self.dx;
        let parts = self.image.source.placed().zip(&self.image.blocks).zip([first, second]).zip(self.adds);
        for ((((offset, part), blocks), dx), add) in parts {
            for (place, dx) in self.rows.clone().zip(dx.chunks_exact_mut(part.channels)) {
                let dropout = layer.dropout.map(|dropout| dropout.row(place * channels..(place + 1) * channels));
                let row = &part.data[place * part.channels..(place + 1) * part.channels];
                let dy = &self.dy[place * channels + offset..][..part.channels];
                let means = [0, 1].map(|k| self.means[k][offset..offset + part.channels].chunks(LANES));
                let [ones, twos] = means;
                let inputs = blocks.iter().zip(row.chunks(LANES)).zip(dy.chunks(LANES)).zip(ones.zip(twos));
                for (i, ((((block, x), dy), (one, two)), dx)) in inputs.zip(dx.chunks_mut(LANES)).enumerate() {
                    let h = normalised(s, block, x);
                    let dropout = dropout.map(|row| (row, offset + i * LANES));
                    let dz = before_activation(s, layer, block, h, dy, dropout);
                    let of_means = s.fma(h, load(s, two), load(s, one));
                    let own = s.sub(s.mul(dz, s.load(&block.weight.0)), of_means);
                    let before = if add { load(s, dx) } else { s.splat(0.0) };
                    store(s, dx, s.fma(own, s.load(&block.rstd.0), before));
                }
            }
        }
    }
}
