//! Products of matrices of bfloat16 in whole numbers of 16 bits, for processors that multiply these fast
//! ([`crate::whole`]). A row's result depends on no other row, nor on the number of threads.

use std::ops::Range;

use half::bf16;

use crate::error::{check_len, Error, Result};
use crate::pool::scratch::{filled, lend, sized};
use crate::pool::split::Split;
use crate::pool::{run, Pool};
use crate::products::packing::{ColumnsToPanel, ColumnsToTiles, RowsToPanels, RowsToTiles};
use crate::products::pairs::{Pairs, LINE};
pub use crate::products::rows::Rows;
use crate::products::rows::ToRows;
use crate::products::{multiply, Arithmetic, Operands};
use crate::simd::{dispatch, Line, LANES};

/// Rows of a task: their results stay in the second-level cache.
const ROWS: usize = 96;
/// Rows whose products are added up in whole numbers where the sum goes over rows.
const DEEP: usize = 1024;

/// Where the result of [`by_rows`] goes.
pub struct Into<'a> {
    /// (rows of a, rows of b)
    pub y: &'a mut [bf16],
    /// Whether the result is added to what y holds.
    pub add: bool,
    /// (rows of b)
    pub bias: Option<&'a [bf16]>,
}

/// y = a b^T + bias, for a (rows, width) and b (columns, width).
///
/// # Errors
/// When sizes do not fit, or there is no memory.
pub fn by_rows(pool: &dyn Pool, a: Rows<bf16>, b: Rows<bf16>, into: Into) -> Result {
    let Into { y, add, bias } = into;
    check(&a)?;
    check(&b)?;
    check_len("the width of b", b.width, a.width)?;
    check_len("y", y.len(), a.count * b.count)?;
    check_len("bias", bias.map_or(b.count, <[_]>::len), b.count)?;
    let (lines, panels) = (a.width.div_ceil(LINE), b.count.div_ceil(LANES));
    let panel = Pairs::panel(lines, lines);
    lend(|[u]| {
        let u = sized(u, panels * panel)?;
        let shares = Split::new(u, panels, |i| (i + 1) * panel);
        pool.run(panels, &|i| {
            let rows = b.some(i * LANES, LANES.min(b.count - i * LANES));
            dispatch(RowsToPanels { rows, to: shares.take(i) });
        })?;
        drop(shares);
        let (u, tasks) = (&*u, a.count.div_ceil(ROWS));
        let outs = Split::new(y, tasks, |i| (i + 1) * ROWS * b.count);
        run(pool, tasks, |i| {
            let rows = a.some(i * ROWS, ROWS.min(a.count - i * ROWS));
            let (tiles, mut scales) = (rows.count, [0.0; ROWS]);
            lend(|[v, m]| {
                let (v, m) = (sized(v, lines * tiles)?, sized(m, panels * tiles)?);
                dispatch(RowsToTiles { rows, factor: 1.0, to: v, scales: &mut scales });
                let arithmetic = Pairs { scales: &scales, pitch: 0 };
                multiply(Operands { arithmetic, tiles, blocks: lines, run: lines, v, u, m, first: true });
                dispatch(ToRows {
                    from: m,
                    place: |row: usize, panel: usize| panel * tiles + row,
                    factors: &|_| 1.0,
                    bias,
                    add,
                    count: tiles,
                    width: b.count,
                    stride: b.count,
                    to: outs.take(i),
                });
                Ok(())
            })
        })
    })
}

/// y = a^T b, for a (rows, outputs) and b (rows, inputs): y (outputs, inputs) is written.
///
/// # Errors
/// When sizes do not fit, or there is no memory.
pub fn by_columns(pool: &dyn Pool, a: Rows<bf16>, b: Rows<bf16>, y: &mut [f32]) -> Result {
    check(&a)?;
    check(&b)?;
    check_len("the rows of b", b.count, a.count)?;
    check_len("y", y.len(), a.width * b.width)?;
    let slices = Slices::new(pool.threads(), a.width);
    let panels = b.width.div_ceil(LANES);
    let mut scales = filled(0.0, slices.end(slices.count - 1))?;
    lend(|[v, u, m]| {
        let m = sized(m, scales.len() * panels)?;
        for start in (0..a.count).step_by(DEEP) {
            let own = DEEP.min(a.count - start);
            let (a, b) = (a.some(start, own), b.some(start, own));
            let lines = own.div_ceil(LINE);
            let (v, u) = (sized(v, lines * scales.len())?, sized(u, panels * Pairs::panel(lines, lines))?);
            pack(pool, &slices, [a, b], v, u, &mut scales)?;
            add(pool, &slices, lines, v, u, &scales, m, start == 0)?;
        }
        let (m, width) = (&*m, b.width);
        let outs = Split::new(y, slices.count, |slice| slices.end(slice) * width);
        pool.run(slices.count, &|slice| {
            let (to, own) = (outs.take(slice), slices.get(slice));
            dispatch(ToRows {
                from: &m[own.start * panels..],
                place: |row: usize, panel: usize| panel * own.len() + row,
                factors: &|_| 1.0,
                bias: None,
                add: false,
                count: to.len() / width,
                width,
                stride: width,
                to,
            });
        })
    })
}

/// Columns of a, shared out in blocks of 16.
struct Slices {
    count: usize,
    blocks: usize,
}

impl Slices {
    fn new(threads: usize, columns: usize) -> Self {
        let blocks = columns.div_ceil(LANES);
        Slices { count: threads.min(blocks), blocks }
    }

    fn end(&self, slice: usize) -> usize {
        (slice + 1) * self.blocks / self.count * LANES
    }

    fn get(&self, slice: usize) -> Range<usize> {
        slice * self.blocks / self.count * LANES..self.end(slice)
    }
}

/// Columns of a to tiles, slice by slice, and those of b to panels.
fn pack(
    pool: &dyn Pool,
    slices: &Slices,
    [a, b]: [Rows<bf16>; 2],
    v: &mut [Line],
    u: &mut [Line],
    scales: &mut [f32],
) -> Result {
    let lines = a.count.div_ceil(LINE);
    let (panel, panels) = (Pairs::panel(lines, lines), b.width.div_ceil(LANES));
    let tiles = Split::new(v, slices.count, |slice| slices.end(slice) * lines);
    let scales = Split::new(scales, slices.count, |slice| slices.end(slice));
    let shares = Split::new(u, panels, |i| (i + 1) * panel);
    pool.run(slices.count + panels, &|i| {
        if let Some(index) = i.checked_sub(slices.count) {
            let columns = index * LANES..b.width.min((index + 1) * LANES);
            dispatch(ColumnsToPanel { rows: b.columns(columns), to: shares.take(index) });
            return;
        }
        let (own, tiles) = (slices.get(i), tiles.take(i));
        for (block, scales) in scales.take(i).as_chunks_mut().0.iter_mut().enumerate() {
            let first = own.start + block * LANES;
            let rows = a.columns(first..a.width.min(first + LANES));
            dispatch(ColumnsToTiles { rows, pitch: own.len(), to: &mut tiles[block * LANES..], scales });
        }
    })
}

/// m = v u, or m += v u: slice by slice, each panel's tiles together.
#[allow(clippy::too_many_arguments)]
fn add(
    pool: &dyn Pool,
    slices: &Slices,
    lines: usize,
    v: &[Line],
    u: &[Line],
    scales: &[f32],
    m: &mut [Line],
    first: bool,
) -> Result {
    let panels = u.len() / Pairs::panel(lines, lines);
    let shares = Split::new(m, slices.count, |slice| slices.end(slice) * panels);
    pool.run(slices.count, &|slice| {
        let (own, m) = (slices.get(slice), shares.take(slice));
        let arithmetic = Pairs { scales: &scales[own.clone()], pitch: 0 };
        let v = &v[own.start * lines..];
        multiply(Operands { arithmetic, tiles: own.len(), blocks: lines, run: lines, v, u, m, first });
    })
}

fn check(rows: &Rows<bf16>) -> Result {
    if rows.count * rows.width == 0 || rows.stride < rows.width {
        return Err(Error::misfit("a matrix has no rows or no columns, or they overlap"));
    }
    let least = (rows.count - 1) * rows.stride + rows.width;
    check_len("a matrix", rows.data.len().min(least), least)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{Scoped, Serial};
    use crate::testing::{as_f64, as_type, assert_close, normal, with_isa, ALL_ISAS};

    fn matrix(count: usize, width: usize, seed: u64) -> Vec<bf16> {
        as_type(&normal(count * width, seed))
    }

    fn rows(data: &[bf16], width: usize) -> Rows<'_, bf16> {
        Rows { data, count: data.len() / width, width, stride: width }
    }

    const SIZES: [[usize; 3]; 5] = [[1, 1, 1], [97, 64, 48], [200, 33, 17], [13, 300, 5], [2100, 40, 70]];

    #[test]
    fn rows_times_rows_are_what_float64_says() {
        for isa in ALL_ISAS {
            for [count, width, columns] in SIZES {
                let (a, b, bias) = (matrix(count, width, 1), matrix(columns, width, 2), matrix(1, columns, 3));
                let before = matrix(count, columns, 4);
                let [x, w, c, d] = [&a, &b, &bias, &before].map(|m| as_f64(m));
                let dot = |i: usize, o: usize| (0..width).map(|k| x[i * width + k] * w[o * width + k]).sum::<f64>();
                let entry = |at: usize| dot(at / columns, at % columns) + c[at % columns];
                let want: Vec<f64> = (0..count * columns).map(entry).collect();
                let mut y = vec![bf16::ZERO; count * columns];
                let mut sum = before.clone();
                with_isa(isa, || {
                    let (a, b) = (rows(&a, width), rows(&b, width));
                    by_rows(&Scoped(2), a, b, Into { y: &mut y, add: false, bias: Some(&bias) }).unwrap();
                    by_rows(&Serial, a, b, Into { y: &mut sum, add: true, bias: Some(&bias) }).unwrap();
                });
                assert_close(&y, &want, 4e-3, "product of rows");
                let want: Vec<f64> = want.iter().zip(&d).map(|(y, d)| y + d).collect();
                assert_close(&sum, &want, 4e-3, "added product of rows");
            }
        }
    }

    #[test]
    fn columns_times_columns_are_what_float64_says_and_the_same_for_any_number_of_threads() {
        for isa in ALL_ISAS {
            for [count, outputs, inputs] in SIZES {
                let (a, b) = (matrix(count, outputs, 1), matrix(count, inputs, 2));
                let (x, d) = (as_f64(&a), as_f64(&b));
                let dot = |o: usize, i: usize| (0..count).map(|k| x[k * outputs + o] * d[k * inputs + i]).sum::<f64>();
                let want: Vec<f64> = (0..outputs * inputs).map(|at| dot(at / inputs, at % inputs)).collect();
                let mut got = [1, 2, 5].map(|threads| {
                    let mut y = vec![f32::NAN; outputs * inputs];
                    with_isa(isa, || {
                        by_columns(&Scoped(threads), rows(&a, outputs), rows(&b, inputs), &mut y).unwrap();
                    });
                    y
                });
                assert_close(&got[0], &want, 5e-4, "product of columns");
                let first = std::mem::take(&mut got[0]);
                assert!(got[1..].iter().all(|y| *y == first));
            }
        }
    }

    #[test]
    fn sizes_of_numbers_do_not_matter_and_what_is_not_finite_stays_in_its_row() {
        for scale in [1e-25, 1.0, 1e30] {
            let mut x: Vec<f32> = normal(4 * 96, 1).iter().map(|x| x * scale).collect();
            x[96 + 7] = f32::NAN;
            x[3 * 96..].fill(0.0);
            let (a, b): (Vec<bf16>, _) = (as_type(&x), matrix(20, 96, 2));
            let mut y = vec![bf16::ZERO; 4 * 20];
            by_rows(&Serial, rows(&a, 96), rows(&b, 96), Into { y: &mut y, add: false, bias: None }).unwrap();
            let (x, w) = (as_f64(&a), as_f64(&b));
            for row in [0, 2, 3] {
                let dot = |o: usize| (0..96).map(|k| x[row * 96 + k] * w[o * 96 + k]).sum::<f64>();
                let want: Vec<f64> = (0..20).map(dot).collect();
                assert_close(&y[row * 20..][..20], &want, 4e-3, "a row");
            }
            assert!(y[20..40].iter().all(|y| y.is_nan()));
        }
    }

    #[test]
    fn the_largest_and_equal_numbers_overflow_no_sum() {
        // All of the same size and sign: a sum comes as near to 2^31 as it can.
        for (count, width) in [(5, 16), (3, 32), (2, 1000)] {
            let (a, b) = (vec![bf16::ONE; count * width], vec![bf16::ONE; 18 * width]);
            let mut y = vec![bf16::ZERO; count * 18];
            by_rows(&Serial, rows(&a, width), rows(&b, width), Into { y: &mut y, add: false, bias: None }).unwrap();
            assert_close(&y, &vec![width as f64; count * 18], 4e-3, "ones");
            let mut y = vec![0.0; width * width];
            let a = rows(&a, width);
            by_columns(&Serial, a, a, &mut y).unwrap();
            assert_close(&y, &vec![count as f64; width * width], 1e-3, "ones");
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let (a, b) = (matrix(4, 8, 1), matrix(5, 8, 2));
        let mut y = vec![bf16::ZERO; 20];
        fn into(y: &mut [bf16]) -> Into<'_> {
            Into { y, add: false, bias: None }
        }
        assert!(by_rows(&Serial, rows(&a, 8), rows(&b, 4), into(&mut y)).is_err());
        assert!(by_rows(&Serial, rows(&a, 8), rows(&b, 8), into(&mut y[1..])).is_err());
        assert!(by_rows(&Serial, rows(&a[..0], 8), rows(&b, 8), into(&mut [])).is_err());
        assert!(by_rows(&Serial, Rows { count: 5, ..rows(&a, 8) }, rows(&b, 8), into(&mut y)).is_err());
        assert!(by_columns(&Serial, rows(&a, 8), rows(&b, 8), &mut [0.0; 64]).is_err());
        assert!(by_columns(&Serial, rows(&a, 8), rows(&a, 8), &mut [0.0; 63]).is_err());
    }
}
