//! The matrix products between the transforms, with all operands in lines of 16 floats, or of 16 pairs of whole numbers
//! ([`pairs`]).
//!
//! Tiles' points are `v[point][channel block][tile]`, a line holding 16 input channels, or with blocks outermost; weights are
//! `u[panel][point][input channel]`, a line holding the 16 output channels of the panel; products are
//! `m[point][panel][tile]`, a line holding the panel's output channels.

#![allow(clippy::needless_range_loop)] // the indices are the formulas'

pub mod packing;
pub mod pairs;
pub mod rows;

use crate::simd::{dispatch, dispatch_short, Kernel, Line, Simd, LANES};

/// Panels of output channels that are worked on together, at most (what the widest register file takes).
pub const PANELS: usize = 2;

/// Blocks of input channels that are summed up by themselves: many short sums round less than a long one, a prediction of
/// the course's network by a third to a half.
pub const RUN: usize = 2;

/// What lines hold: floats, or pairs of whole numbers with scales.
pub trait Arithmetic: Copy {
    const WHOLE: bool;

    /// Lines of a panel's weights at one point: 16 for each block and, in whole numbers, one for each run of blocks, which the
    /// run's sums are multiplied with.
    fn panel(blocks: usize, run: usize) -> usize;

    /// What the sums of a run and of R tiles are multiplied with besides, in whole numbers.
    fn scales<const R: usize>(&self, run: usize, tile: usize) -> Option<&[f32; R]>;
}

#[derive(Clone, Copy)]
pub struct Floats;

impl Arithmetic for Floats {
    const WHOLE: bool = false;

    fn panel(blocks: usize, _: usize) -> usize {
        blocks * LANES
    }

    #[inline(always)]
    fn scales<const R: usize>(&self, _: usize, _: usize) -> Option<&[f32; R]> {
        Some(&[1.0; R])
    }
}

/// m = v u, or m += v u, for all points and one or two panels. Added up in whole runs of blocks, it has the bits of one
/// call.
pub struct Products<'a, A> {
    pub arithmetic: A,
    pub points: usize,
    pub blocks: usize,
    /// Blocks that are summed up by themselves.
    pub run: usize,
    pub tiles: usize,
    /// Lines from one point to the next in `v`, in `u` and in `m`.
    pub strides: [usize; 3],
    /// Lines from one block to the next in `v`.
    pub pitch: usize,
    pub v: &'a [Line],
    /// One panel, or two of the same length.
    pub u: [Option<&'a [Line]>; PANELS],
    pub m: &'a mut [Line],
    /// Whether m is written, and not added to.
    pub first: bool,
}

impl<A: Arithmetic> Products<'_, A> {
    /// Computes m.
    pub fn make(self) {
        if A::WHOLE {
            dispatch_short(self);
        } else {
            dispatch(self);
        }
    }
}

impl<A: Arithmetic> Kernel for Products<'_, A> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let panels = self.u.iter().flatten().count();
        let groups = self.tiles.div_ceil(S::ROWS);
        for point in 0..self.points {
            let v = &self.v[point * self.strides[0]..];
            let u = self.u.map(|u| u.map_or(&[] as &[Line], |u| &u[point * self.strides[1]..]));
            let m = &mut self.m[point * self.strides[2]..];
            for group in 0..groups {
                // Rows are shared out evenly: 64 tiles are six groups of 10 or 11, not five of 12 and one of 4.
                let rows = group * self.tiles / groups..(group + 1) * self.tiles / groups;
                let of = Rows {
                    arithmetic: self.arithmetic,
                    blocks: [self.blocks, self.run],
                    first: rows.start,
                    v: (&v[rows.start..], self.pitch),
                    fresh: self.first,
                };
                if panels == PANELS && S::COLS == PANELS {
                    some_rows(s, rows.len(), of, u, m, [rows.start, self.tiles + rows.start]);
                } else {
                    for (k, u) in u.into_iter().take(panels).enumerate() {
                        some_rows(s, rows.len(), of, [u], m, [k * self.tiles + rows.start]);
                    }
                }
            }
        }
    }
}

/// One product: m = v u, or m += v u, for all panels of u, one point.
pub struct Operands<'a, A> {
    pub arithmetic: A,
    pub tiles: usize,
    pub blocks: usize,
    pub run: usize,
    /// `v[block][tile]`
    pub v: &'a [Line],
    /// `u[panel][block * 16 + i]`, and what else belongs to a panel
    pub u: &'a [Line],
    /// `m[panel][tile]`
    pub m: &'a mut [Line],
    /// Whether m is written, and not added to.
    pub first: bool,
}

/// Computes [`Operands::m`].
pub fn multiply<A: Arithmetic>(operands: Operands<A>) {
    let Operands { arithmetic, tiles, blocks, run, v, u, m, first } = operands;
    let panel = A::panel(blocks, run);
    for (u, m) in u.chunks(PANELS * panel).zip(m.chunks_mut(PANELS * tiles)) {
        let u = halves(u, panel);
        let (points, strides, pitch) = (1, [0; 3], tiles);
        Products { arithmetic, points, blocks, run, tiles, strides, pitch, v, u, m, first }.make();
    }
}

/// One panel or two, of so many lines each.
pub fn halves(u: &[Line], panel: usize) -> [Option<&[Line]>; PANELS] {
    [u.get(..panel), u.get(panel..).filter(|u| !u.is_empty())]
}

/// What some rows are multiplied with, and how.
#[derive(Clone, Copy)]
struct Rows<'a, A> {
    arithmetic: A,
    /// Blocks, and those of a run.
    blocks: [usize; 2],
    /// The first row's place among all.
    first: usize,
    /// Row r is at `v[block * stride + r]`.
    v: (&'a [Line], usize),
    /// Whether results are written, and not added.
    fresh: bool,
}

/// [`rows`] for a number of rows known only at run time.
#[inline(always)]
fn some_rows<S: Simd, A: Arithmetic, const N: usize>(
    s: S,
    count: usize,
    of: Rows<A>,
    u: [&[Line]; N],
    m: &mut [Line],
    to: [usize; N],
) {
    macro_rules! with {
        ($($rows:literal)*) => {
            match count {
                $($rows if $rows <= S::ROWS => rows::<S, A, $rows, N>(s, of, u, m, to),)*
                _ => {}
            }
        };
    }
    with!(1 2 3 4 5 6 7 8 9 10 11 12)
}

/// R rows times N panels, kept in registers for a run of blocks. Row r's result goes to `m[to[n] + r]`.
#[inline(always)]
fn rows<S: Simd, A: Arithmetic, const R: usize, const N: usize>(
    s: S,
    of: Rows<A>,
    u: [&[Line]; N],
    m: &mut [Line],
    to: [usize; N],
) {
    let ([blocks, length], (v, stride)) = (of.blocks, of.v);
    for (run, start) in (0..blocks).step_by(length).enumerate() {
        let mut sums = [[s.splat(0.0); N]; R];
        let Some(scales) = of.arithmetic.scales::<R>(run, of.first) else {
            return;
        };
        for block in start..blocks.min(start + length) {
            let Some(left) = v[block * stride..].first_chunk::<R>() else {
                return;
            };
            let right: [&[Line; LANES]; N] = u.map(|u| match u[block * LANES..].first_chunk() {
                Some(lines) => lines,
                None => &[Line::ZERO; LANES],
            });
            for k in 0..LANES {
                let mut b = [s.splat(0.0); N];
                for n in 0..N {
                    b[n] = s.load(&right[n][k].0);
                }
                for r in 0..R {
                    let a = s.splat(left[r].0[k]);
                    for n in 0..N {
                        sums[r][n] = if A::WHOLE { s.dot(a, b[n], sums[r][n]) } else { s.fma(a, b[n], sums[r][n]) };
                    }
                }
            }
        }
        let fresh = of.fresh && start == 0;
        for n in 0..N {
            let mut back = s.splat(1.0);
            if A::WHOLE {
                back = s.load(&u[n][blocks * LANES + run].0);
            }
            if let Some(out) = m[to[n]..].first_chunk_mut::<R>() {
                for r in 0..R {
                    let mut sum = sums[r][n];
                    if A::WHOLE {
                        let scale = s.mul(back, s.splat(scales[r]));
                        sum = if fresh {
                            s.mul(s.float(sum), scale)
                        } else {
                            s.fma(s.float(sum), scale, s.load(&out[r].0))
                        };
                    } else if !fresh {
                        sum = s.add(s.load(&out[r].0), sum);
                    }
                    s.store(&mut out[r].0, sum);
                }
            }
        }
    }
}

/// sums += v^T d for all points: `sums[((point * blocks + block) * panels + panel) * 16 + i]` is the line of the panel's
/// output channels for input channel i of the block. The first time, sums = v^T d.
pub struct Correlations<'a> {
    pub points: usize,
    pub blocks: usize,
    pub panels: usize,
    pub tiles: usize,
    /// Lines from one point to the next in `v` and in `d`.
    pub strides: [usize; 2],
    pub v: &'a [Line],
    pub d: &'a [Line],
    pub sums: &'a mut [Line],
    pub first: bool,
}

impl Kernel for Correlations<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for point in 0..self.points {
            for panel in (0..self.panels).step_by(S::COLS) {
                let d = |k: usize| &self.d[point * self.strides[1] + (panel + k) * self.tiles..][..self.tiles];
                for block in 0..self.blocks {
                    let v = &self.v[point * self.strides[0] + block * self.tiles..][..self.tiles];
                    let at = (point * self.blocks + block) * self.panels + panel;
                    let sums = &mut self.sums[at * LANES..];
                    if S::COLS == 2 && panel + 1 < self.panels {
                        correlate(s, v, [d(0), d(1)], sums, self.first);
                    } else {
                        correlate(s, v, [d(0)], sums, self.first);
                    }
                }
            }
        }
    }
}

/// One block of 16 input channels with N panels.
#[inline(always)]
fn correlate<S: Simd, const N: usize>(s: S, v: &[Line], d: [&[Line]; N], sums: &mut [Line], first: bool) {
    if S::ROWS >= 8 {
        for row in [0, 8] {
            correlate_rows::<S, 8, N>(s, v, d, sums, row, first);
        }
    } else {
        for row in [0, 4, 8, 12] {
            correlate_rows::<S, 4, N>(s, v, d, sums, row, first);
        }
    }
}

#[inline(always)]
fn correlate_rows<S: Simd, const R: usize, const N: usize>(
    s: S,
    v: &[Line],
    d: [&[Line]; N],
    sums: &mut [Line],
    row: usize,
    first: bool,
) {
    let mut own = [[s.splat(0.0); N]; R];
    for (t, left) in v.iter().enumerate() {
        let mut b = [s.splat(0.0); N];
        for n in 0..N {
            b[n] = s.load(&d[n][t].0);
        }
        let Some(left) = left.0[row..].first_chunk::<R>() else {
            return;
        };
        for r in 0..R {
            let a = s.splat(left[r]);
            for n in 0..N {
                own[r][n] = s.fma(a, b[n], own[r][n]);
            }
        }
    }
    for n in 0..N {
        if let Some(out) = sums[n * LANES + row..].first_chunk_mut::<R>() {
            for r in 0..R {
                let before = if first { s.splat(0.0) } else { s.load(&out[r].0) };
                s.store(&mut out[r].0, s.add(before, own[r][n]));
            }
        }
    }
}
