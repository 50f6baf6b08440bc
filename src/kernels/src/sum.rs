//! Sums of one buffer into another, and over the rows of a matrix.

use crate::error::{check_len, Result};
use crate::pool::scratch::filled;
use crate::pool::split::Split;
use crate::pool::{Pool, PIECE};
use crate::simd::element::{load, store, Element};
use crate::simd::{dispatch, Kernel, Simd, LANES};

/// to += from
///
/// # Errors
/// When lengths differ.
pub fn add<T: Element, F: Element>(pool: &dyn Pool, to: &mut [T], from: &[F]) -> Result {
    check_len("from", from.len(), to.len())?;
    let pieces = to.len().div_ceil(PIECE);
    let to = Split::new(to, pieces, |i| (i + 1) * PIECE);
    pool.run(pieces, &|i| {
        let to = to.take(i);
        dispatch(Add(to, &from[i * PIECE..][..to.len()]));
    })
}

/// Sums over the rows of a matrix of `out.len()` columns; written.
///
/// # Errors
/// When `x` has no whole number of rows, or there is no memory.
pub fn rows<T: Element>(pool: &dyn Pool, x: &[T], out: &mut [f32]) -> Result {
    let columns = out.len();
    let count = x.len().checked_div(columns).unwrap_or(0);
    check_len("x", x.len(), count * columns)?;
    out.fill(0.0);
    // As many rows to a task whoever works: the order of the sums is the same for any number of threads.
    let at_a_time = (PIECE / columns.max(1)).max(1);
    let pieces = count.div_ceil(at_a_time);
    let mut sums = filled(0.0f32, pieces * columns)?;
    let parts = Split::new(&mut sums, pieces, |i| (i + 1) * columns);
    pool.run(pieces, &|i| {
        let end = ((i + 1) * at_a_time).min(count);
        dispatch(Rows(&x[i * at_a_time * columns..end * columns], parts.take(i)));
    })?;
    drop(parts);
    if columns > 0 {
        dispatch(Rows(&sums, out));
    }
    Ok(())
}

struct Add<'a, T, F>(&'a mut [T], &'a [F]);

impl<T: Element, F: Element> Kernel for Add<'_, T, F> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (to, from) in self.0.chunks_mut(LANES).zip(self.1.chunks(LANES)) {
            let sum = s.add(load(s, to), load(s, from));
            store(s, to, sum);
        }
    }
}

/// Adds each row to the sums.
struct Rows<'a, T>(&'a [T], &'a mut [f32]);

impl<T: Element> Kernel for Rows<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self(x, sums) = self;
        for row in x.chunks_exact(sums.len()) {
            for (sum, x) in sums.chunks_mut(LANES).zip(row.chunks(LANES)) {
                let new = s.add(load(s, sum), load(s, x));
                store(s, sum, new);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::pool::{Scoped, Serial};
    use crate::testing::{with_isa, ALL_ISAS};

    fn numbers(count: usize) -> Vec<f32> {
        (0..count).map(|i| (i * 37 % 101) as f32 / 8.0 - 6.0).collect()
    }

    #[test]
    fn sums_are_right_whatever_the_shape_and_whoever_works() {
        for isa in ALL_ISAS {
            with_isa(isa, || {
                for (count, columns) in [(0, 5), (1, 1), (3, 16), (700, 33), (5000, 7)] {
                    let x = numbers(count * columns);
                    let want = |c: usize| (0..count).map(|r| f64::from(x[r * columns + c])).sum::<f64>();
                    let (mut one, mut four) = (vec![9.0; columns], vec![9.0; columns]);
                    rows(&Serial, &x, &mut one).unwrap();
                    rows(&Scoped(4), &x, &mut four).unwrap();
                    assert_eq!(one, four);
                    assert!((0..columns).all(|c| (f64::from(one[c]) - want(c)).abs() < 1e-2));
                }
            });
        }
    }

    #[test]
    fn a_buffer_is_added_to_another_of_its_type_or_of_a_wider_one() {
        for count in [0, 1, 17, 2 * PIECE + 3] {
            let x = numbers(count);
            let short: Vec<bf16> = x.iter().map(|x| bf16::from_f32(*x)).collect();
            let (mut wide, mut narrow) = (x.clone(), short.clone());
            add(&Scoped(3), &mut wide, &short).unwrap();
            add(&Serial, &mut narrow, &short).unwrap();
            let right = |i: usize| wide[i] == x[i] + short[i].to_f32() && narrow[i].to_f32() == 2.0 * short[i].to_f32();
            assert!((0..count).all(right));
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        assert!(add(&Serial, &mut [0.0f32; 2], &[0.0f32; 3]).is_err());
        assert!(rows(&Serial, &[0.0f32; 5], &mut [0.0; 2]).is_err());
        assert!(rows(&Serial, &[0.0f32; 5], &mut []).is_err());
    }
}
