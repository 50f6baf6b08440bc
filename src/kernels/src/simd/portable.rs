//! Plain arrays, which the compiler vectorises as it can.

use half::bf16;

use super::{Simd, LANES};

/// Plain arrays, for any machine.
#[derive(Clone, Copy)]
pub struct Portable;

macro_rules! portable {
    ($($name:ident($($arg:ident),*) = $value:expr;)*) => {
        $(#[inline(always)]
        fn $name(self, $($arg: Self::V),*) -> Self::V {
            let mut out = [0.0f32; LANES];
            for (i, o) in out.iter_mut().enumerate() {
                $(let $arg = $arg[i];)*
                *o = $value;
            }
            out
        })*
    };
}

impl Simd for Portable {
    type V = [f32; LANES];
    const ROWS: usize = 2;
    const COLS: usize = 1;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::V {
        *from
    }
    #[inline(always)]
    fn store(self, to: &mut [f32; LANES], v: Self::V) {
        *to = v;
    }
    #[inline(always)]
    fn load_bf16(self, from: &[bf16; LANES]) -> Self::V {
        from.map(|x| f32::from_bits(u32::from(x.to_bits()) << 16))
    }
    #[inline(always)]
    fn store_bf16(self, to: &mut [bf16; LANES], v: Self::V) {
        for (t, x) in to.iter_mut().zip(v) {
            *t = bf16::from_f32(x);
        }
    }
    #[inline(always)]
    fn lookup(self, table: &[f32; 2 * LANES], index: &[u32; LANES], less: u32) -> Self::V {
        index.map(|i| table[i.wrapping_sub(less) as usize % (2 * LANES)])
    }
    #[inline(always)]
    fn fma_half(self, a: f32, b: [f32; LANES / 2], c: [f32; LANES / 2]) -> [f32; LANES / 2] {
        std::array::from_fn(|i| a * b[i] + c[i])
    }
    #[inline(always)]
    fn zip(self, a: Self::V, b: Self::V) -> [Self::V; 2] {
        let of = |half: usize| std::array::from_fn(|i| if i % 2 == 0 { a[half + i / 2] } else { b[half + i / 2] });
        [of(0), of(LANES / 2)]
    }
    portable! {
        add(a, b) = a + b;
        sub(a, b) = a - b;
        mul(a, b) = a * b;
        div(a, b) = a / b;
        min(a, b) = if a < b { a } else { b };
        max(a, b) = if a > b { a } else { b };
        sqrt(a) = a.sqrt();
        fma(a, b, c) = a * b + c;
        pow2(n) = f32::from_bits(((n as i32 + 127) as u32) << 23);
        pair(a, b) = f32::from_bits(u32::from(rounded(a)) | u32::from(rounded(b)) << 16);
        dot(a, b, sums) = {
            let [a, b] = [a, b].map(|x| [x.to_bits() as i16, (x.to_bits() >> 16) as i16].map(i32::from));
            f32::from_bits((sums.to_bits() as i32).wrapping_add(a[0] * b[0]).wrapping_add(a[1] * b[1]) as u32)
        };
        float(sums) = sums.to_bits() as i32 as f32;
    }
}

/// The bits of the nearest whole number.
#[inline(always)]
fn rounded(x: f32) -> u16 {
    x.round_ties_even() as i16 as u16
}
