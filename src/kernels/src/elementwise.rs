//! Sums of tensors, and copies between element types.

use crate::element::{load, store, Element};
use crate::error::{check_len, Result};
use crate::pool::Pool;
use crate::simd::{dispatch, Kernel, Simd, LANES};
use crate::split::Split;

/// Elements per task.
const PIECE: usize = 32 * 1024;

/// y = a + b, rounded once.
///
/// # Errors
/// When lengths differ.
pub fn add<T: Element>(pool: &dyn Pool, a: &[T], b: &[T], y: &mut [T]) -> Result {
    check_len("a", a.len(), y.len())?;
    check_len("b", b.len(), y.len())?;
    in_pieces(pool, y, |range, y| dispatch(Sum { a: &a[range.clone()], b: Some(&b[range]), y, own: false }));
    Ok(())
}

/// y += x, of whatever element types.
///
/// # Errors
/// When lengths differ.
pub fn accumulate<X: Element, Y: Element>(pool: &dyn Pool, x: &[X], y: &mut [Y]) -> Result {
    check_len("x", x.len(), y.len())?;
    in_pieces(pool, y, |range, y| dispatch(Sum { a: &x[range], b: None, y, own: true }));
    Ok(())
}

/// y = x in another element type.
///
/// # Errors
/// When lengths differ.
pub fn convert<X: Element, Y: Element>(pool: &dyn Pool, x: &[X], y: &mut [Y]) -> Result {
    check_len("x", x.len(), y.len())?;
    in_pieces(pool, y, |range, y| dispatch(Sum { a: &x[range], b: None, y, own: false }));
    Ok(())
}

fn in_pieces<T: Element>(pool: &dyn Pool, y: &mut [T], body: impl Fn(std::ops::Range<usize>, &mut [T]) + Sync) {
    let (len, pieces) = (y.len(), y.len().div_ceil(PIECE));
    let shares = Split::new(y, pieces, |i| (i + 1) * PIECE);
    pool.run(pieces, &|i| body(i * PIECE..len.min((i + 1) * PIECE), shares.take(i)));
}

/// y = a + b + y, as far as they are there.
struct Sum<'a, X, Y> {
    a: &'a [X],
    b: Option<&'a [X]>,
    y: &'a mut [Y],
    own: bool,
}

impl<X: Element, Y: Element> Kernel for Sum<'_, X, Y> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (i, (a, y)) in self.a.chunks(LANES).zip(self.y.chunks_mut(LANES)).enumerate() {
            let mut sum = load(s, a);
            if let Some(b) = self.b {
                sum = s.add(sum, load(s, &b[i * LANES..i * LANES + a.len()]));
            }
            if self.own {
                sum = s.add(sum, load(s, y));
            }
            store(s, y, sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{Scoped, Serial};
    use crate::testing::{as_type, normal, with_isa, ALL_ISAS};
    use half::bf16;

    #[test]
    fn sums_are_rounded_once() {
        for isa in ALL_ISAS {
            with_isa(isa, || {
                for n in [0, 1, 17, PIECE + 5] {
                    let (a, b) = (normal(n, 1), normal(n, 2));
                    let (a16, b16): (Vec<bf16>, Vec<bf16>) = (as_type(&a), as_type(&b));
                    let (mut y, mut y16) = (vec![0.0; n], vec![bf16::ZERO; n]);
                    add(&Serial, &a, &b, &mut y).unwrap();
                    add(&Scoped(2), &a16, &b16, &mut y16).unwrap();
                    assert!((0..n).all(|i| y[i] == a[i] + b[i]));
                    assert!((0..n).all(|i| y16[i] == bf16::from_f32(a16[i].to_f32() + b16[i].to_f32())));
                    accumulate(&Serial, &b16, &mut y).unwrap();
                    assert!((0..n).all(|i| y[i] == a[i] + b[i] + b16[i].to_f32()));
                    convert(&Serial, &a, &mut y16).unwrap();
                    assert!(y16 == a16);
                }
            });
        }
    }

    #[test]
    fn rounding_to_bfloat16_keeps_what_is_special() {
        let x = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, f32::MAX, 1.003_906_2, f32::from_bits(1)];
        for isa in ALL_ISAS {
            with_isa(isa, || {
                let (x, mut y) = ([x, x, x].concat(), [bf16::ZERO; 21]);
                convert(&Serial, &x, &mut y).unwrap();
                assert!(y[0].is_nan());
                assert!((0..21).filter(|i| i % 7 > 0).all(|i| y[i] == bf16::from_f32(x[i])), "{y:?}");
            });
        }
    }

    #[test]
    fn misfits_are_errors() {
        assert!(add(&Serial, &[0.0; 2], &[0.0; 3], &mut [0.0; 3]).is_err());
        assert!(accumulate(&Serial, &[0.0f32; 2], &mut [0.0f32; 3]).is_err());
    }
}
