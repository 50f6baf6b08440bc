//! The forward pass.

use super::numbers::{Float, Numbers};
use super::whole::{Whole, LEAST};
use super::{exp2, penalty, Heads, MOST_ROWS};
use crate::error::Result;
use crate::pool::scratch::{lend, sized};
use crate::pool::split::Split;
use crate::pool::{run, Pool};
use crate::products::pairs::{whole, MOST};
use crate::products::rows::{Rows, ToRows};
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
            let [q, k, v] = parts(&heads, qkv, head);
            lend(|[keys, values]| {
                let out = Out { heads: &heads, head, out, logsumexp };
                if whole::<T>() && positions >= LEAST {
                    one_head(&Whole::new(&heads, [k, v], [keys, values])?, q, first..last, out)
                } else {
                    one_head(&Float::new(&heads, [k, v], [keys, values])?, q, first..last, out)
                }
            })
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

/// Where the results of some queries of a head go.
struct Out<'a, T> {
    heads: &'a Heads,
    head: usize,
    out: &'a mut [T],
    logsumexp: &'a mut [f32],
}

fn one_head<T: Element, N: Numbers<T>>(numbers: &N, q: Rows<T>, queries: Range<usize>, into: Out<T>) -> Result {
    let Out { heads, head, out, logsumexp } = into;
    let (blocks, panels, channels) = (heads.blocks(), heads.panels(), heads.channels());
    lend(|[block, scores, products]| {
        for start in queries.clone().step_by(heads.block()) {
            let rows = heads.block().min(queries.end - start);
            let scores = sized(scores, panels * rows)?;
            numbers.scores(q.some(start, rows), block, scores)?;
            let (mut tops, mut sums) = ([0.0; MOST_ROWS], [0.0; MOST_ROWS]);
            let penalty = &penalty(heads.positions);
            dispatch(Softmax { rows, scores, penalty, tops: &mut tops, sums: &mut sums, whole: N::WHOLE });
            let products = sized(products, blocks * rows)?;
            numbers.mix(rows, scores, products);
            let at = start - queries.start;
            dispatch(ToRows {
                from: products,
                place: |row: usize, block: usize| block * rows + row,
                factors: &|row| 1.0 / sums[row],
                bias: None,
                add: false,
                count: rows,
                width: heads.width,
                stride: channels,
                to: &mut out[at * channels + head * heads.width..],
            });
            for (row, to) in logsumexp[at..at + rows].iter_mut().enumerate() {
                *to = (tops[row] + sums[row].log2()) * LN_2;
            }
        }
        Ok(())
    })
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
