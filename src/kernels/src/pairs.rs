//! Matrix products of whole numbers of 16 bits, two to a lane (`Simd::pair`), as [`crate::product`] makes those of floats.
//!
//! Inputs are `v[point][line][row]`; a line holds 16 pairs. Filters are `u[panel][point]`: 16 lines for each line of inputs,
//! which hold a pair for each of the panel's 16 outputs, and then, for each stretch of lines of inputs, a line that undoes the
//! outputs' scales. Sums over a stretch are whole numbers of 32 bits, which whoever chooses the scales keeps from
//! overflowing.

#![allow(clippy::needless_range_loop)] // the indices are the formulas'

use crate::product::PANELS;
use crate::simd::element::Element;
use crate::simd::{dispatch_short, has_short_products, Kernel, Line, Simd, LANES};
use std::ops::Range;
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

/// The largest of the whole numbers.
pub const MOST: f32 = 32767.0;

/// One product: m = v u for all panels of u, one point.
pub struct Operands<'a> {
    pub lines: usize,
    pub stretch: usize,
    pub rows: usize,
    /// `v[line][row]`
    pub v: &'a [Line],
    /// `u[panel][line * 16 + i]`, and a line for each stretch
    pub u: &'a [Line],
    pub scales: &'a [f32],
    /// `m[panel][row]`
    pub m: &'a mut [Line],
}

/// Computes [`Operands::m`].
pub fn multiply(operands: Operands) {
    let Operands { lines, stretch, rows, v, u, scales, m } = operands;
    let panel = panel(lines, stretch);
    for (u, m) in u.chunks(PANELS * panel).zip(m.chunks_mut(PANELS * rows)) {
        let u = [u.get(..panel), u.get(panel..).filter(|u| !u.is_empty())];
        let strides = [0; 3];
        dispatch_short(PairProducts {
            points: 1,
            lines,
            stretch,
            rows,
            strides,
            pitch: rows,
            v,
            u,
            scales,
            m,
            first: true,
        });
    }
}

/// Lines of a panel at a point.
pub fn panel(lines: usize, stretch: usize) -> usize {
    lines * LANES + lines.div_ceil(stretch)
}

/// m = v u, or m += v u, for all points and one or two panels.
pub struct PairProducts<'a> {
    pub points: usize,
    /// Lines of inputs, and how many of them make a stretch.
    pub lines: usize,
    pub stretch: usize,
    pub rows: usize,
    /// Lines from one point to the next in `v`, in `u` and in `m`.
    pub strides: [usize; 3],
    /// Lines from one line of inputs to the next in `v`.
    pub pitch: usize,
    pub v: &'a [Line],
    /// One panel, or two of the same length.
    pub u: [Option<&'a [Line]>; PANELS],
    /// What undoes the scales of the inputs: `scales[stretch * rows + row]`.
    pub scales: &'a [f32],
    pub m: &'a mut [Line],
    /// Whether m is written, and not added to.
    pub first: bool,
}

impl Kernel for PairProducts<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let count = self.rows;
        let groups = count.div_ceil(S::ROWS);
        for point in 0..self.points {
            let v = &self.v[point * self.strides[0]..];
            let u = self.u.map(|u| u.map_or(&[] as &[Line], |u| &u[point * self.strides[1]..]));
            let m = &mut self.m[point * self.strides[2]..];
            for group in 0..groups {
                let rows = group * count / groups..(group + 1) * count / groups;
                for (k, start) in (0..self.lines).step_by(self.stretch).enumerate() {
                    let end = self.lines.min(start + self.stretch);
                    let left = (&v[start * self.pitch + rows.start..], self.pitch);
                    let (pairs, back) = (start * LANES..end * LANES, self.lines * LANES + k);
                    let scales = &self.scales[k * count + rows.start..];
                    let fresh = self.first && k == 0;
                    if !u[1].is_empty() && S::COLS == PANELS {
                        let right = [own(u[0], pairs.clone(), back), own(u[1], pairs, back)];
                        some_rows(s, rows.len(), left, right, scales, m, [rows.start, count + rows.start], fresh);
                    } else {
                        for n in 0..PANELS {
                            if !u[n].is_empty() {
                                let right = [own(u[n], pairs.clone(), back)];
                                some_rows(s, rows.len(), left, right, scales, m, [n * count + rows.start], fresh);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The pairs of a stretch, and what undoes their scales.
#[inline(always)]
fn own(u: &[Line], pairs: Range<usize>, scales: usize) -> (&[Line], Line) {
    (&u[pairs], u[scales])
}

/// [`rows`] for a number of rows known only at run time.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn some_rows<S: Simd, const N: usize>(
    s: S,
    count: usize,
    v: (&[Line], usize),
    u: [(&[Line], Line); N],
    scales: &[f32],
    m: &mut [Line],
    to: [usize; N],
    fresh: bool,
) {
    macro_rules! with {
        ($($rows:literal)*) => {
            match count {
                $($rows if $rows <= S::ROWS => rows::<S, $rows, N>(s, v, u, scales, m, to, fresh),)*
                _ => {}
            }
        };
    }
    with!(1 2 3 4 5 6 7 8 9 10 11 12)
}

const NOTHING: &[Line; LANES] = &[Line::ZERO; LANES];

/// R rows times N panels, over a stretch.
#[inline(always)]
fn rows<S: Simd, const R: usize, const N: usize>(
    s: S,
    (v, stride): (&[Line], usize),
    u: [(&[Line], Line); N],
    scales: &[f32],
    m: &mut [Line],
    to: [usize; N],
    fresh: bool,
) {
    let mut sums = [[s.splat(0.0); N]; R];
    let Some(scales) = scales.first_chunk::<R>() else {
        return;
    };
    for block in 0..u[0].0.len() / LANES {
        let Some(left) = v[block * stride..].first_chunk::<R>() else {
            return;
        };
        let mut right = [NOTHING; N];
        for n in 0..N {
            if let Some(lines) = u[n].0[block * LANES..].first_chunk() {
                right[n] = lines;
            }
        }
        for k in 0..LANES {
            let mut b = [s.splat(0.0); N];
            for n in 0..N {
                b[n] = s.load(&right[n][k].0);
            }
            for r in 0..R {
                let a = s.splat(left[r].0[k]);
                for n in 0..N {
                    sums[r][n] = s.dot(a, b[n], sums[r][n]);
                }
            }
        }
    }
    for n in 0..N {
        let back = s.load(&u[n].1 .0);
        if let Some(out) = m[to[n]..].first_chunk_mut::<R>() {
            for r in 0..R {
                let scale = s.mul(back, s.splat(scales[r]));
                let sum = s.float(sums[r][n]);
                let sum = if fresh { s.mul(sum, scale) } else { s.fma(sum, scale, s.load(&out[r].0)) };
                s.store(&mut out[r].0, sum);
            }
        }
    }
}
