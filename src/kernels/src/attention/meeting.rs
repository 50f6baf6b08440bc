//! Queries meet keys once more, on the way back: their probabilities, and the slopes of their scores.

use super::forward::parts;
use super::{exp2, penalty, Heads, MOST_ROWS};
use crate::error::Result;
use crate::pool::scratch::sized;
use crate::products::rows::{transpose, ByRow, Rows};
use crate::products::{multiply, Floats, Operands, RUN};
use crate::simd::element::Element;
use crate::simd::{dispatch, Kernel, Line, Simd, LANES};
use std::f32::consts::LOG2_E;
use std::ops::Range;

/// One head of one image: what went in, what came out, and the gradient of that.
pub struct Head<'a, T> {
    pub heads: &'a Heads,
    /// Queries, keys, values.
    parts: [Rows<'a, T>; 3],
    out: Rows<'a, T>,
    logsumexp: &'a [f32],
    d_out: Rows<'a, T>,
}

impl<'a, T> Head<'a, T> {
    pub fn new(
        heads: &'a Heads,
        (image, head): (usize, usize),
        qkv: &'a [T],
        (out, logsumexp): (&'a [T], &'a [f32]),
        dout: &'a [T],
    ) -> Self {
        let (count, channels, width) = (heads.positions, heads.channels(), heads.width);
        let rows_of = |whole: &'a [T]| Rows {
            data: &whole[image * count * channels + head * width..],
            count,
            width,
            stride: channels,
        };
        Head {
            heads,
            parts: parts(heads, &qkv[image * count * 3 * channels..], head),
            out: rows_of(out),
            logsumexp: &logsumexp[(image * heads.heads + head) * count..][..count],
            d_out: rows_of(dout),
        }
    }
}

/// Some keys and their values, as the products read them.
pub struct Keys<'a> {
    /// Of 16 keys each.
    pub panels: usize,
    keys: &'a [Line],
    values: &'a [Line],
    pub by_row: &'a [Line],
    penalty: Line,
}

impl<'a> Keys<'a> {
    pub fn new<T: Element>(
        head: &Head<T>,
        panels: Range<usize>,
        [keys, values, by_row]: [&'a mut Vec<Line>; 3],
    ) -> Result<Self> {
        let (heads, depth) = (head.heads, head.heads.blocks() * LANES);
        let first = panels.start * LANES;
        let [_, k, v] = head.parts.map(|rows| rows.some(first, heads.positions.min(panels.end * LANES) - first));
        let (keys, values) = (sized(keys, panels.len() * depth)?, sized(values, panels.len() * depth)?);
        let by_row = sized(by_row, panels.len() * depth)?;
        transpose(k, depth, keys);
        transpose(v, depth, values);
        dispatch(ByRow { rows: k, factor: 1.0, height: panels.len() * LANES, to: by_row });
        let penalty = if panels.end == heads.panels() { penalty(heads.positions) } else { Line::ZERO };
        Ok(Keys { panels: panels.len(), keys, values, by_row, penalty })
    }
}

/// What a block of queries brings and finds.
pub struct Meeting<'a> {
    /// `[block of channels][query]`
    pub queries: &'a [Line],
    pub d_out: &'a [Line],
    /// `[panel of keys][query]`
    pub p: &'a [Line],
    pub slopes: &'a [Line],
}

impl<T: Element> Head<'_, T> {
    /// Queries `rows`, at most a block of them, meet `keys`.
    pub fn meet<'a>(
        &self,
        keys: &Keys,
        rows: Range<usize>,
        [queries, d_out, p, slopes]: &'a mut [&mut Vec<Line>; 4],
    ) -> Result<Meeting<'a>> {
        let (blocks, count) = (self.heads.blocks(), rows.len());
        let [queries, d_out] = [sized(queries, blocks * count)?, sized(d_out, blocks * count)?];
        let [p, slopes] = [sized(p, keys.panels * count)?, sized(slopes, keys.panels * count)?];
        let own = self.parts[0].some(rows.start, count);
        dispatch(ByRow { rows: own, factor: self.heads.factor(), height: count, to: queries });
        dispatch(ByRow { rows: self.d_out.some(rows.start, count), factor: 1.0, height: count, to: d_out });
        multiply(Operands {
            arithmetic: Floats,
            run: RUN,
            tiles: count,
            blocks,
            v: queries,
            u: keys.keys,
            m: p,
            first: true,
        });
        multiply(Operands {
            arithmetic: Floats,
            run: RUN,
            tiles: count,
            blocks,
            v: d_out,
            u: keys.values,
            m: slopes,
            first: true,
        });
        let (mut sums, mut shares) = ([0.0; MOST_ROWS], [0.0; MOST_ROWS]);
        for ((row, sum), share) in rows.zip(&mut sums).zip(&mut shares) {
            *sum = self.logsumexp[row] * LOG2_E;
            *share = dot(self.out.some(row, 1), self.d_out.some(row, 1));
        }
        let (penalty, sums, shares) = (&keys.penalty, &sums, &shares);
        dispatch(Slopes { rows: count, scores: p, d_scores: slopes, penalty, sums, shares });
        Ok(Meeting { queries, d_out, p, slopes })
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
