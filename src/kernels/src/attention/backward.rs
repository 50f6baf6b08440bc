//! The backward pass. The probabilities p are computed anew from the scores and the logarithms of their sums; with
//! ds = p (dp - sum(dout out)) / sqrt(d): dv = p^T dout, dq = ds k, dk = ds^T q.

use super::forward::parts;
use super::pack::{transpose, ByRow, Rows, ToRows};
use super::{exp2, penalty, sized, Heads, MOST_ROWS, SCRATCH};
use crate::error::{check_len, Result};
use crate::pool::split::Split;
use crate::pool::Pool;
use crate::product::{multiply, Correlations, Operands};
use crate::simd::element::Element;
use crate::simd::{dispatch, Kernel, Line, Simd, LANES};
use std::f32::consts::{LN_2, LOG2_E};

/// Writes dqkv (N, positions, 3 C) from dout (N, positions, C), what went into [`super::forward`] and what came out.
///
/// # Errors
/// When a length does not fit.
pub fn backward<T: Element>(
    pool: &dyn Pool,
    heads: Heads,
    qkv: &[T],
    (out, logsumexp): (&[T], &[f32]),
    dout: &[T],
    dqkv: &mut [T],
) -> Result {
    heads.check(qkv.len(), out.len(), logsumexp.len())?;
    check_len("dout", dout.len(), out.len())?;
    check_len("dqkv", dqkv.len(), qkv.len())?;
    let (positions, channels) = (heads.positions, heads.channels());
    let size = positions * channels;
    let shares = Split::new(dqkv, heads.batch, |image| (image + 1) * 3 * size);
    pool.run(heads.batch, &|image| {
        let dqkv = shares.take(image);
        let whole = Whole {
            heads: &heads,
            qkv: &qkv[image * 3 * size..(image + 1) * 3 * size],
            out: &out[image * size..(image + 1) * size],
            dout: &dout[image * size..(image + 1) * size],
        };
        for head in 0..heads.heads {
            let at = (image * heads.heads + head) * positions;
            whole.head(head, &logsumexp[at..at + positions], dqkv);
        }
    });
    Ok(())
}

/// One image.
struct Whole<'a, T> {
    heads: &'a Heads,
    qkv: &'a [T],
    out: &'a [T],
    dout: &'a [T],
}

impl<T: Element> Whole<'_, T> {
    fn head(&self, head: usize, logsumexp: &[f32], dqkv: &mut [T]) {
        let heads = self.heads;
        let (blocks, panels, channels, width) = (heads.blocks(), heads.panels(), heads.channels(), heads.width);
        let [q, k, v] = parts(heads, self.qkv, head);
        let rows_of = |data| Rows { data, count: heads.positions, width, stride: channels };
        let (out, dout) = (rows_of(&self.out[head * width..]), rows_of(&self.dout[head * width..]));

        let mut scratch = SCRATCH.take();
        let [keys, values, keys_by_row, block, d_block, scores, d_scores, dq, dk, dv] = &mut scratch;
        let depth = blocks * LANES;
        let (keys, values) = (sized(keys, panels * depth), sized(values, panels * depth));
        let keys_by_row = sized(keys_by_row, blocks * panels * LANES);
        let (dk, dv) = (sized(dk, panels * depth), sized(dv, panels * depth));
        transpose(k, depth, keys);
        transpose(v, depth, values);
        dispatch(ByRow { rows: k, factor: 1.0, height: panels * LANES, to: keys_by_row });
        for start in (0..heads.positions).step_by(heads.block()) {
            let rows = heads.block().min(heads.positions - start);
            let (block, d_block) = (sized(block, blocks * rows), sized(d_block, blocks * rows));
            let (scores, d_scores) = (sized(scores, panels * rows), sized(d_scores, panels * rows));
            let dq = sized(dq, blocks * rows);
            dispatch(ByRow { rows: q.some(start, rows), factor: heads.factor(), height: rows, to: block });
            dispatch(ByRow { rows: dout.some(start, rows), factor: 1.0, height: rows, to: d_block });
            multiply(Operands { tiles: rows, blocks, v: block, u: keys, m: scores });
            multiply(Operands { tiles: rows, blocks, v: d_block, u: values, m: d_scores });
            let (mut sums, mut shares) = ([0.0; MOST_ROWS], [0.0; MOST_ROWS]);
            for row in 0..rows {
                sums[row] = logsumexp[start + row] * LOG2_E;
                shares[row] = dot(out.some(start + row, 1), dout.some(start + row, 1));
            }
            let penalty = &penalty(heads.positions);
            dispatch(Slopes { rows, scores, d_scores, penalty, sums: &sums, shares: &shares });
            for (v, d, sums) in [(&*scores, &*d_block, &mut *dv), (&*d_scores, &*block, &mut *dk)] {
                let (first, strides) = (start == 0, [v.len(), d.len()]);
                let correlations =
                    Correlations { points: 1, blocks: panels, panels: blocks, tiles: rows, strides, v, d, sums, first };
                dispatch(correlations);
            }
            multiply(Operands { tiles: rows, blocks: panels, v: d_scores, u: keys_by_row, m: dq });
            dispatch(ToRows {
                from: dq,
                place: |row: usize, block: usize| block * rows + row,
                factors: &|_| 1.0 / (width as f32).sqrt(),
                count: rows,
                width,
                stride: 3 * channels,
                to: &mut dqkv[start * 3 * channels + head * width..],
            });
        }
        // The queries had the factor log2(e) / sqrt(width); the gradient of the keys has 1 / sqrt(width).
        for (k, from, factor) in [(1, dk, LN_2), (2, dv, 1.0)] {
            dispatch(ToRows {
                from,
                place: |row: usize, block: usize| (row / LANES * blocks + block) * LANES + row % LANES,
                factors: &|_| factor,
                count: heads.positions,
                width,
                stride: 3 * channels,
                to: &mut dqkv[k * channels + head * width..],
            });
        }
        SCRATCH.set(scratch);
    }
}

/// The product of two rows.
fn dot<T: Element>(a: Rows<T>, b: Rows<T>) -> f32 {
    a.data[..a.width].iter().zip(&b.data[..b.width]).map(|(a, b)| a.to_f32() * b.to_f32()).sum()
}

/// Scores to probabilities, and their gradients to those of the scores (but for 1 / sqrt(width)).
struct Slopes<'a> {
    rows: usize,
    scores: &'a mut [Line],
    d_scores: &'a mut [Line],
    penalty: &'a Line,
    /// Logarithms of the softmax's denominators, base 2.
    sums: &'a [f32; MOST_ROWS],
    /// sum(dout out)
    shares: &'a [f32; MOST_ROWS],
}

impl Kernel for Slopes<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let last = self.scores.len() / self.rows - 1;
        for line in &mut self.scores[last * self.rows..] {
            let score = s.add(s.load(&line.0), s.load(&self.penalty.0));
            s.store(&mut line.0, score);
        }
        let panels = self.scores.chunks_exact_mut(self.rows).zip(self.d_scores.chunks_exact_mut(self.rows));
        for (scores, d_scores) in panels {
            for (row, (score, d_score)) in scores.iter_mut().zip(d_scores).enumerate() {
                let p = exp2(s, s.sub(s.load(&score.0), s.splat(self.sums[row])));
                let ds = s.mul(p, s.sub(s.load(&d_score.0), s.splat(self.shares[row])));
                s.store(&mut score.0, p);
                s.store(&mut d_score.0, ds);
            }
        }
    }
}
