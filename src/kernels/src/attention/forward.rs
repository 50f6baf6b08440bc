//! The forward pass.

use super::pack::{transpose, ByRow, Rows, ToRows};
use super::{exp2, penalty, Heads, MOST_ROWS};
use crate::error::Result;
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
            one_head(&heads, qkv, head, first..last, out, logsumexp)
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
    let (blocks, panels, channels) = (heads.blocks(), heads.panels(), heads.channels());
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
            dispatch(Softmax { rows, scores, penalty, tops: &mut tops, sums: &mut sums });
            let products = sized(products, blocks * rows)?;
            multiply(Operands { tiles: rows, blocks: panels, v: scores, u: values, m: products });
            let at = start - queries.start;
            dispatch(ToRows {
                from: products,
                place: |row: usize, block: usize| block * rows + row,
                factors: &|row| 1.0 / sums[row],
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

/// Scores to 2^(score - the row's largest), with that and the sum of each row.
struct Softmax<'a> {
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
        for panel in self.scores.chunks_exact_mut(self.rows) {
            for ((line, top), sum) in panel.iter_mut().zip(&tops).zip(&mut sums) {
                let p = exp2(s, s.sub(s.load(&line.0), s.load(&top.0)));
                s.store(&mut line.0, p);
                let more = s.add(s.load(&sum.0), p);
                s.store(&mut sum.0, more);
            }
        }
        for (line, sum) in sums.iter().zip(self.sums.iter_mut()) {
            *sum = line.0.iter().sum();
        }
    }
}
