//! The forward pass.

use super::pack::{transpose, ByRow, Rows, ToRows};
use super::whole::{PackKeys, PackQueries, PackValues, LEAST, STRETCH};
use super::{exp2, penalty, Heads, MOST_ROWS};
use crate::error::Result;
use crate::pairs::{self, whole, MOST};
use crate::pool::scratch::{lend, sized};
use crate::pool::split::Split;
use crate::pool::{run, Pool};
use crate::product::{multiply, Operands};
use crate::simd::element::Element;
use crate::simd::{dispatch, Kernel, Line, Simd, LANES};
use std::f32::consts::LN_2;
use std::ops::Range;

/// From qkv (N, positions, 3 C), the queries, keys and values of all heads side by side, writes out (N, positions, C) and
/// logsumexp (N, heads, positions): the natural logarithm of each softmax's denominator.
///
/// # Errors
/// When a length does not fit, memory runs out or the pool fails.
pub fn forward<T: Element>(pool: &dyn Pool, heads: Heads, qkv: &[T], out: &mut [T], logsumexp: &mut [f32]) -> Result {
    heads.check(qkv.len(), out.len(), logsumexp.len())?;
    let Heads { batch, positions, heads: count, .. } = heads;
    let channels = heads.channels();
    // Images go to the threads whole where they can be shared out evenly; otherwise their queries are shared out too.
    let threads = pool.threads();
    let slices = if batch.is_multiple_of(threads) { 1 } else { threads.min(positions) };
    let end = |slice: usize| (slice + 1) * positions / slices;
    let outs = Split::new(out, batch * slices, |i| (i / slices * positions + end(i % slices)) * channels);
    let sums = Split::new(logsumexp, batch * count * slices, |i| i / slices * positions + end(i % slices));
    run(pool, batch * slices, |i| {
        let (image, slice) = (i / slices, i % slices);
        let qkv = &qkv[image * positions * 3 * channels..][..positions * 3 * channels];
        let (first, last) = (slice * positions / slices, end(slice));
        let out = outs.take(i);
        (0..count).try_for_each(|head| {
            let logsumexp = sums.take((image * count + head) * slices + slice);
            if whole::<T>() && positions >= LEAST {
                one_head_whole(&heads, qkv, head, first..last, out, logsumexp)
            } else {
                one_head(&heads, qkv, head, first..last, out, logsumexp)
            }
        })
    })
}

/// The queries, keys and values of one head of one image.
pub(super) fn parts<'a, T>(heads: &Heads, qkv: &'a [T], head: usize) -> [Rows<'a, T>; 3] {
    let channels = heads.channels();
    [0, 1, 2].map(|k| Rows {
        data: &qkv[k * channels + head * heads.width..],
        count: heads.positions,
        width: heads.width,
        stride: 3 * channels,
    })
}

fn one_head<T: Element>(
    heads: &Heads,
    qkv: &[T],
    head: usize,
    queries: Range<usize>,
    out: &mut [T],
    logsumexp: &mut [f32],
) -> Result {
    let (blocks, panels) = (heads.blocks(), heads.panels());
    let [q, k, v] = parts(heads, qkv, head);
    lend(|[keys, values, block, scores, products]| {
        let keys = sized(keys, panels * blocks * LANES)?;
        transpose(k, blocks * LANES, keys);
        let values = sized(values, blocks * panels * LANES)?;
        dispatch(ByRow { rows: v, factor: 1.0, height: panels * LANES, to: values });
        for start in queries.clone().step_by(heads.block()) {
            let rows = heads.block().min(queries.end - start);
            let block = sized(block, blocks * rows)?;
            dispatch(ByRow { rows: q.some(start, rows), factor: heads.factor(), height: rows, to: block });
            let scores = sized(scores, panels * rows)?;
            multiply(Operands { tiles: rows, blocks, v: block, u: keys, m: scores });
            let (mut tops, mut sums) = ([0.0; MOST_ROWS], [0.0; MOST_ROWS]);
            let penalty = &penalty(heads.positions);
            dispatch(Softmax { rows, scores, penalty, tops: &mut tops, sums: &mut sums, whole: false });
            let products = sized(products, blocks * rows)?;
            multiply(Operands { tiles: rows, blocks: panels, v: scores, u: values, m: products });
            let at = start - queries.start;
            write(heads, head, at..at + rows, products, [&tops, &sums], out, logsumexp);
        }
        Ok(())
    })
}

/// The same in whole numbers.
fn one_head_whole<T: Element>(
    heads: &Heads,
    qkv: &[T],
    head: usize,
    queries: Range<usize>,
    out: &mut [T],
    logsumexp: &mut [f32],
) -> Result {
    let (blocks, panels) = (heads.blocks(), heads.panels());
    let [q, k, v] = parts(heads, qkv, head);
    // Of 32 channels, and of 32 keys.
    let (deep, long) = (heads.width.div_ceil(2 * LANES), panels.div_ceil(2));
    let ones = [1.0; MOST_ROWS].repeat(long.div_ceil(STRETCH));
    lend(|[keys, values, block, scores, products]| {
        let keys = sized(keys, panels * pairs::panel(deep, deep))?;
        dispatch(PackKeys { rows: k, lines: deep, to: keys });
        let values = sized(values, blocks * pairs::panel(long, STRETCH))?;
        dispatch(PackValues { rows: v, lines: long, to: values });
        for start in queries.clone().step_by(heads.block()) {
            let rows = heads.block().min(queries.end - start);
            let block = sized(block, deep * rows)?;
            let mut scales = [0.0; MOST_ROWS];
            dispatch(PackQueries { rows: q.some(start, rows), factor: heads.factor(), to: block, scales: &mut scales });
            let scores = sized(scores, panels * rows)?;
            let (v, u, scales) = (&*block, &*keys, &scales[..]);
            pairs::multiply(pairs::Operands { lines: deep, stretch: deep, rows, v, u, scales, m: scores });
            let (mut tops, mut sums) = ([0.0; MOST_ROWS], [0.0; MOST_ROWS]);
            let penalty = &penalty(heads.positions);
            dispatch(Softmax { rows, scores, penalty, tops: &mut tops, sums: &mut sums, whole: true });
            let products = sized(products, blocks * rows)?;
            let (v, u, scales) = (&scores[..long * rows], &*values, &ones);
            pairs::multiply(pairs::Operands { lines: long, stretch: STRETCH, rows, v, u, scales, m: products });
            let at = start - queries.start;
            write(heads, head, at..at + rows, products, [&tops, &sums], out, logsumexp);
        }
        Ok(())
    })
}

/// What some queries of a head have found.
fn write<T: Element>(
    heads: &Heads,
    head: usize,
    queries: Range<usize>,
    products: &[Line],
    [tops, sums]: [&[f32; MOST_ROWS]; 2],
    out: &mut [T],
    logsumexp: &mut [f32],
) {
    let (rows, channels) = (queries.len(), heads.channels());
    dispatch(ToRows {
        from: products,
        place: |row: usize, block: usize| block * rows + row,
        factors: &|row| 1.0 / sums[row],
        count: rows,
        width: heads.width,
        stride: channels,
        to: &mut out[queries.start * channels + head * heads.width..],
    });
    for (row, to) in logsumexp[queries].iter_mut().enumerate() {
        *to = (tops[row] + sums[row].log2()) * LN_2;
    }
}

/// Scores to 2^(score - the row's largest), with that and the sum of each row. In whole numbers they are multiplied with
/// [`MOST`], a line for two panels.
struct Softmax<'a> {
    whole: bool,
    rows: usize,
    scores: &'a mut [Line],
    penalty: &'a Line,
    tops: &'a mut [f32; MOST_ROWS],
    sums: &'a mut [f32; MOST_ROWS],
}

impl Kernel for Softmax<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut tops = [Line([-1e30; LANES]); MOST_ROWS];
        let last = self.scores.len() / self.rows - 1;
        for line in &mut self.scores[last * self.rows..] {
            let score = s.add(s.load(&line.0), s.load(&self.penalty.0));
            s.store(&mut line.0, score);
        }
        for panel in self.scores.chunks_exact(self.rows) {
            for (line, top) in panel.iter().zip(&mut tops) {
                let larger = s.max(s.load(&top.0), s.load(&line.0));
                s.store(&mut top.0, larger);
            }
        }
        for (line, top) in tops.iter_mut().zip(self.tops.iter_mut()) {
            *top = line.0.iter().fold(f32::MIN, |a, &b| if b > a { b } else { a });
            line.0 = [*top; LANES];
        }
        let mut sums = [Line::ZERO; MOST_ROWS];
        if self.whole {
            let panels = self.scores.len() / self.rows;
            for panel in (0..panels).step_by(2) {
                for (row, (top, sum)) in tops.iter().zip(&mut sums).take(self.rows).enumerate() {
                    let top = s.load(&top.0);
                    let low = exp2(s, s.sub(s.load(&self.scores[panel * self.rows + row].0), top));
                    let mut high = s.splat(0.0);
                    if panel + 1 < panels {
                        high = exp2(s, s.sub(s.load(&self.scores[(panel + 1) * self.rows + row].0), top));
                    }
                    let pair = s.pair(s.mul(low, s.splat(MOST)), s.mul(high, s.splat(MOST)));
                    s.store(&mut self.scores[panel / 2 * self.rows + row].0, pair);
                    let more = s.add(s.load(&sum.0), s.add(low, high));
                    s.store(&mut sum.0, more);
                }
            }
        } else {
            for panel in self.scores.chunks_exact_mut(self.rows) {
                for ((line, top), sum) in panel.iter_mut().zip(&tops).zip(&mut sums) {
                    let p = exp2(s, s.sub(s.load(&line.0), s.load(&top.0)));
                    s.store(&mut line.0, p);
                    let more = s.add(s.load(&sum.0), p);
                    s.store(&mut sum.0, more);
                }
            }
        }
        for (line, sum) in sums.iter().zip(self.sums.iter_mut()) {
            *sum = line.0.iter().sum();
        }
    }
}
