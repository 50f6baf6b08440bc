//! What a tensor may be made of: f32, or bf16 that is widened on reading and rounded on writing.

use crate::simd::{Simd, LANES};
use half::bf16;

/// A stored number; all arithmetic is in f32.
pub trait Element: Copy + Default + Send + Sync + 'static {
    const ZERO: Self;
    /// Whether it rounds so much that products in whole numbers of 16 bits do as well as those of floats.
    const SHORT: bool;
    fn to_f32(self) -> f32;
    fn from_f32(x: f32) -> Self;
    fn load_block<S: Simd>(s: S, from: &[Self; LANES]) -> S::V;
    fn store_block<S: Simd>(s: S, to: &mut [Self; LANES], v: S::V);
}

impl Element for f32 {
    const ZERO: f32 = 0.0;
    const SHORT: bool = false;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(x: f32) -> f32 {
        x
    }
    #[inline(always)]
    fn load_block<S: Simd>(s: S, from: &[f32; LANES]) -> S::V {
        s.load(from)
    }
    #[inline(always)]
    fn store_block<S: Simd>(s: S, to: &mut [f32; LANES], v: S::V) {
        s.store(to, v)
    }
}

impl Element for bf16 {
    const ZERO: bf16 = bf16::ZERO;
    const SHORT: bool = true;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
    #[inline(always)]
    fn from_f32(x: f32) -> bf16 {
        bf16::from_f32(x)
    }
    #[inline(always)]
    fn load_block<S: Simd>(s: S, from: &[bf16; LANES]) -> S::V {
        s.load_bf16(from)
    }
    #[inline(always)]
    fn store_block<S: Simd>(s: S, to: &mut [bf16; LANES], v: S::V) {
        s.store_bf16(to, v)
    }
}

/// The first 16 numbers of `from`; what is missing reads as zero.
#[inline(always)]
pub fn load<S: Simd, T: Element>(s: S, from: &[T]) -> S::V {
    match from.first_chunk::<LANES>() {
        Some(block) => T::load_block(s, block),
        None => T::load_block(s, &padded(from)),
    }
}

/// Writes up to 16 numbers to `to`, as many as it holds.
#[inline(always)]
pub fn store<S: Simd, T: Element>(s: S, to: &mut [T], v: S::V) {
    match to.first_chunk_mut::<LANES>() {
        Some(block) => T::store_block(s, block, v),
        None => {
            let mut block = [T::ZERO; LANES];
            T::store_block(s, &mut block, v);
            cut(to, &block);
        }
    }
}

// The rare last block of channels that are no multiple of 16: out of line, so that the loops around stay small.

#[cold]
#[inline(never)]
fn padded<T: Element>(from: &[T]) -> [T; LANES] {
    let mut block = [T::ZERO; LANES];
    block.iter_mut().zip(from).for_each(|(b, x)| *b = *x);
    block
}

#[cold]
#[inline(never)]
fn cut<T: Element>(to: &mut [T], block: &[T; LANES]) {
    to.iter_mut().zip(block).for_each(|(x, b)| *x = *b);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{dispatch, Kernel};
    use crate::testing::{with_isa, ALL_ISAS};

    struct Copy<'a, X, Y>(&'a [X], &'a mut [Y]);
    impl<X: Element, Y: Element> Kernel for Copy<'_, X, Y> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            self.0.chunks(LANES).zip(self.1.chunks_mut(LANES)).for_each(|(x, y)| store(s, y, load(s, x)));
        }
    }

    #[test]
    fn rounding_to_bfloat16_keeps_what_is_special() {
        let x = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, f32::MAX, 1.003_906_2, f32::from_bits(1)];
        for isa in ALL_ISAS {
            with_isa(isa, || {
                let (x, mut y, mut back) = ([x, x, x].concat(), [bf16::ZERO; 21], [0.0f32; 21]);
                dispatch(Copy(&x, &mut y));
                dispatch(Copy(&y, &mut back));
                assert!(y[0].is_nan() && back[0].is_nan());
                let ordinary = || (0..21).filter(|i| i % 7 > 0);
                assert!(ordinary().all(|i| y[i] == bf16::from_f32(x[i]) && back[i] == y[i].to_f32()), "{y:?}");
            });
        }
    }
}
