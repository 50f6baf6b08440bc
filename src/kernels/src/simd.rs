//! SIMD registers, and the choice of an instruction set at run time.
//!
//! A kernel is written once, generically over [`Simd`], whose register always holds 16 floats (one cache line, one block
//! of channels): one 512-bit register, two of 256 bits, or an array that the compiler vectorises as it can.

use std::sync::atomic::{AtomicU8, Ordering};

use half::bf16;
#[cfg(target_arch = "x86_64")]
use pulp::x86::{V3, V4};

/// Floats in one register and in one cache line.
pub const LANES: usize = 16;

/// One cache line of floats, aligned as such.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Line(pub [f32; LANES]);

impl Line {
    pub const ZERO: Line = Line([0.0; LANES]);
}

/// Sixteen floats at a time. The implementing values are proofs that the instructions exist.
pub trait Simd: Copy {
    type V: Copy;
    /// Rows of the matrix-product micro-kernel, as many as the register file holds.
    const ROWS: usize;
    /// Blocks of 16 columns of the micro-kernel.
    const COLS: usize;

    fn splat(self, x: f32) -> Self::V;
    fn load(self, from: &[f32; LANES]) -> Self::V;
    fn store(self, to: &mut [f32; LANES], v: Self::V);
    fn load_bf16(self, from: &[bf16; LANES]) -> Self::V;
    /// Rounds to nearest, ties to even; NaN stays NaN.
    fn store_bf16(self, to: &mut [bf16; LANES], v: Self::V);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    fn sqrt(self, a: Self::V) -> Self::V;
    /// a * b + c, rounded once where the machine has the instruction.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// 2^n for integral n in [-126, 127].
    fn pow2(self, n: Self::V) -> Self::V;
}

/// Work that can run on any instruction set: `run` must be `#[inline(always)]`, as must all it calls.
pub trait Kernel {
    type Out;
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

/// Instruction sets, from the least to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Isa {
    Portable = 1,
    Avx2 = 2,
    Avx512 = 3,
}

static ISA: AtomicU8 = AtomicU8::new(0);

fn detect() -> Isa {
    #[cfg(target_arch = "x86_64")]
    {
        if V4::try_new().is_some() {
            return Isa::Avx512;
        }
        if V3::try_new().is_some() {
            return Isa::Avx2;
        }
    }
    Isa::Portable
}

/// The instruction set in use: the machine's best unless [`limit_isa`] lowered it.
pub fn isa() -> Isa {
    match ISA.load(Ordering::Relaxed) {
        1 => Isa::Portable,
        2 => Isa::Avx2,
        3 => Isa::Avx512,
        _ => limit_isa(Isa::Avx512),
    }
}

/// Uses at most `most` from now on, in the whole process, and returns what is used (for tests and measurements).
pub fn limit_isa(most: Isa) -> Isa {
    let used = detect().min(most);
    ISA.store(used as u8, Ordering::Relaxed);
    used
}

/// Runs a kernel compiled for the instruction set in use.
pub fn dispatch<K: Kernel>(kernel: K) -> K::Out {
    #[cfg(target_arch = "x86_64")]
    match (isa(), V4::try_new(), V3::try_new()) {
        (Isa::Avx512, Some(simd), _) => return simd.vectorize(x86::Run(kernel, simd)),
        (Isa::Avx2, _, Some(simd)) => return simd.vectorize(x86::Run(kernel, simd)),
        _ => {}
    }
    kernel.run(Portable)
}

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
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use bytemuck::cast;
    use pulp::x86::{V3, V4};
    use pulp::NullaryFnOnce;

    use super::{bf16, Kernel, Simd, LANES};

    /// A kernel together with the proof that the machine has the instructions it will use.
    pub struct Run<K, S>(pub K, pub S);

    impl<K: Kernel, S: Simd> NullaryFnOnce for Run<K, S> {
        type Output = K::Out;
        #[inline(always)]
        fn call(self) -> K::Out {
            self.0.run(self.1)
        }
    }

    macro_rules! lanewise {
        ($($name:ident($($arg:ident: $kind:ty),*) -> $out:ty = |$s:ident| $value:expr;)*) => {
            $(#[inline(always)]
            fn $name(self, $($arg: $kind),*) -> $out {
                let $s = self;
                $value
            })*
        };
    }

    impl Simd for V4 {
        type V = __m512;
        const ROWS: usize = 12;
        const COLS: usize = 2;
        lanewise! {
            splat(x: f32) -> __m512 = |s| s.avx512f._mm512_set1_ps(x);
            load(from: &[f32; LANES]) -> __m512 = |_s| cast(*from);
            store(to: &mut [f32; LANES], v: __m512) -> () = |_s| *to = cast(v);
            load_bf16(from: &[bf16; LANES]) -> __m512 = |s| {
                let wide = s.avx512f._mm512_cvtepu16_epi32(cast(*from));
                s.avx512f._mm512_castsi512_ps(s.avx512f._mm512_slli_epi32::<16>(wide))
            };
            store_bf16(to: &mut [bf16; LANES], v: __m512) -> () = |s| {
                let s = s.avx512f;
                let bits = s._mm512_castps_si512(v);
                let odd = s._mm512_and_si512(s._mm512_srli_epi32::<16>(bits), s._mm512_set1_epi32(1));
                let rounded = s._mm512_add_epi32(s._mm512_add_epi32(bits, s._mm512_set1_epi32(0x7fff)), odd);
                let nan = s._mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
                let kept = s._mm512_mask_or_epi32(rounded, nan, bits, s._mm512_set1_epi32(0x0040_0000));
                *to = cast(s._mm512_cvtepi32_epi16(s._mm512_srli_epi32::<16>(kept)));
            };
            add(a: __m512, b: __m512) -> __m512 = |s| s.avx512f._mm512_add_ps(a, b);
            sub(a: __m512, b: __m512) -> __m512 = |s| s.avx512f._mm512_sub_ps(a, b);
            mul(a: __m512, b: __m512) -> __m512 = |s| s.avx512f._mm512_mul_ps(a, b);
            div(a: __m512, b: __m512) -> __m512 = |s| s.avx512f._mm512_div_ps(a, b);
            min(a: __m512, b: __m512) -> __m512 = |s| s.avx512f._mm512_min_ps(a, b);
            max(a: __m512, b: __m512) -> __m512 = |s| s.avx512f._mm512_max_ps(a, b);
            sqrt(a: __m512) -> __m512 = |s| s.avx512f._mm512_sqrt_ps(a);
            fma(a: __m512, b: __m512, c: __m512) -> __m512 = |s| s.avx512f._mm512_fmadd_ps(a, b, c);
            pow2(n: __m512) -> __m512 = |s| {
                let s = s.avx512f;
                let biased = s._mm512_add_epi32(s._mm512_cvtps_epi32(n), s._mm512_set1_epi32(127));
                s._mm512_castsi512_ps(s._mm512_slli_epi32::<23>(biased))
            };
        }
    }

    macro_rules! halves {
        ($($name:ident($($arg:ident),*) = |$s:ident| $value:expr;)*) => {
            $(#[inline(always)]
            fn $name(self, $($arg: Self::V),*) -> Self::V {
                let $s = self;
                [{ $(let $arg = $arg[0];)* $value }, { $(let $arg = $arg[1];)* $value }]
            })*
        };
    }

    impl Simd for V3 {
        type V = [__m256; 2];
        const ROWS: usize = 6;
        const COLS: usize = 1;

        #[inline(always)]
        fn splat(self, x: f32) -> Self::V {
            [self.avx._mm256_set1_ps(x); 2]
        }
        #[inline(always)]
        fn load(self, from: &[f32; LANES]) -> Self::V {
            cast(*from)
        }
        #[inline(always)]
        fn store(self, to: &mut [f32; LANES], v: Self::V) {
            *to = cast(v);
        }
        #[inline(always)]
        fn load_bf16(self, from: &[bf16; LANES]) -> Self::V {
            self.load(&super::Portable.load_bf16(from))
        }
        #[inline(always)]
        fn store_bf16(self, to: &mut [bf16; LANES], v: Self::V) {
            super::Portable.store_bf16(to, cast(v));
        }
        halves! {
            add(a, b) = |s| s.avx._mm256_add_ps(a, b);
            sub(a, b) = |s| s.avx._mm256_sub_ps(a, b);
            mul(a, b) = |s| s.avx._mm256_mul_ps(a, b);
            div(a, b) = |s| s.avx._mm256_div_ps(a, b);
            min(a, b) = |s| s.avx._mm256_min_ps(a, b);
            max(a, b) = |s| s.avx._mm256_max_ps(a, b);
            sqrt(a) = |s| s.avx._mm256_sqrt_ps(a);
            fma(a, b, c) = |s| s.fma._mm256_fmadd_ps(a, b, c);
            pow2(n) = |s| {
                let biased = s.avx2._mm256_add_epi32(s.avx._mm256_cvtps_epi32(n), s.avx._mm256_set1_epi32(127));
                s.avx._mm256_castsi256_ps(s.avx2._mm256_slli_epi32::<23>(biased))
            };
        }
    }
}
