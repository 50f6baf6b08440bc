//! 512-bit and 256-bit registers through pulp, whose functions ask for a proof that the instructions exist.

use std::arch::x86_64::*;

use bytemuck::cast;
use pulp::x86::{V3, V4};
use pulp::NullaryFnOnce;

use half::bf16;

use super::{Kernel, Portable, Simd, LANES};

/// A kernel together with the proof that the machine has the instructions it will use.
pub struct Run<K, S>(pub K, pub S);

impl<K: Kernel, S: Simd> NullaryFnOnce for Run<K, S> {
    type Output = K::Out;
    #[inline(always)]
    fn call(self) -> K::Out {
        self.0.run(self.1)
    }
}

pulp::simd_type! {
    /// [`V4`] with the instruction that adds products of whole numbers up: compilers make [`Simd::dot`] of it.
    pub struct Short {
        pub sse: "sse",
        pub sse2: "sse2",
        pub fxsr: "fxsr",
        pub sse3: "sse3",
        pub ssse3: "ssse3",
        pub sse4_1: "sse4.1",
        pub sse4_2: "sse4.2",
        pub popcnt: "popcnt",
        pub avx: "avx",
        pub avx2: "avx2",
        pub bmi1: "bmi1",
        pub bmi2: "bmi2",
        pub fma: "fma",
        pub lzcnt: "lzcnt",
        pub avx512f: "avx512f",
        pub avx512bw: "avx512bw",
        pub avx512cd: "avx512cd",
        pub avx512dq: "avx512dq",
        pub avx512vl: "avx512vl",
        pub avx512vnni: "avx512vnni",
        pub avx512bf16: "avx512bf16",
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

/// Where the lanes of two zipped registers come from: below 16 from the first, from there on from the second.
const ZIP: [[u32; LANES]; 2] = {
    let mut index = [[0; LANES]; 2];
    let mut i = 0;
    while i < LANES {
        (index[0][i], index[1][i]) = ((i / 2 + i % 2 * LANES) as u32, ((LANES + i) / 2 + i % 2 * LANES) as u32);
        i += 1;
    }
    index
};

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
        lookup(table: &[f32; 2 * LANES], index: &[u32; LANES], less: u32) -> __m512 = |s| {
            let [low, high]: [__m512; 2] = cast(*table);
            let index = s.avx512f._mm512_sub_epi32(cast(*index), s.avx512f._mm512_set1_epi32(less as i32));
            s.avx512f._mm512_permutex2var_ps(low, index, high)
        };
        fma_half(a: f32, b: [f32; LANES / 2], c: [f32; LANES / 2]) -> [f32; LANES / 2] = |s| {
            cast(s.fma._mm256_fmadd_ps(s.avx._mm256_set1_ps(a), cast(b), cast(c)))
        };
        zip(a: __m512, b: __m512) -> [__m512; 2] = |s| ZIP.map(|index| s.avx512f._mm512_permutex2var_ps(a, cast(index), b));
        pair(a: __m512, b: __m512) -> __m512 = |s| {
            let [a, b] = [a, b].map(|x| s.avx512f._mm512_cvtps_epi32(x));
            cast(s.avx512bw._mm512_mask_blend_epi16(0xaaaa_aaaa, a, s.avx512f._mm512_slli_epi32::<16>(b)))
        };
        dot(a: __m512, b: __m512, sums: __m512) -> __m512 = |s| {
            cast(s.avx512f._mm512_add_epi32(cast(sums), s.avx512bw._mm512_madd_epi16(cast(a), cast(b))))
        };
        float(sums: __m512) -> __m512 = |s| s.avx512f._mm512_cvtepi32_ps(cast(sums));
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
        self.load(&Portable.load_bf16(from))
    }
    #[inline(always)]
    fn store_bf16(self, to: &mut [bf16; LANES], v: Self::V) {
        Portable.store_bf16(to, cast(v));
    }
    /// Eight numbers at a time can be picked from; bits 3 and 4 of the index say from which eight.
    #[inline(always)]
    fn lookup(self, table: &[f32; 2 * LANES], index: &[u32; LANES], less: u32) -> Self::V {
        let eights: [__m256; 4] = cast(*table);
        let halves: [__m256i; 2] = cast(*index);
        let less = self.avx._mm256_set1_epi32(less as i32);
        let mut out = [self.avx._mm256_setzero_ps(); 2];
        for (out, index) in out.iter_mut().zip(halves) {
            let index = self.avx2._mm256_sub_epi32(index, less);
            let bit3 = self.avx._mm256_castsi256_ps(self.avx2._mm256_slli_epi32::<28>(index));
            let bit4 = self.avx._mm256_castsi256_ps(self.avx2._mm256_slli_epi32::<27>(index));
            let [a, b, c, d] = eights;
            let low = self.avx._mm256_blendv_ps(
                self.avx2._mm256_permutevar8x32_ps(a, index),
                self.avx2._mm256_permutevar8x32_ps(b, index),
                bit3,
            );
            let high = self.avx._mm256_blendv_ps(
                self.avx2._mm256_permutevar8x32_ps(c, index),
                self.avx2._mm256_permutevar8x32_ps(d, index),
                bit3,
            );
            *out = self.avx._mm256_blendv_ps(low, high, bit4);
        }
        out
    }
    #[inline(always)]
    fn fma_half(self, a: f32, b: [f32; LANES / 2], c: [f32; LANES / 2]) -> [f32; LANES / 2] {
        cast(self.fma._mm256_fmadd_ps(self.avx._mm256_set1_ps(a), cast(b), cast(c)))
    }
    #[inline(always)]
    fn zip(self, a: Self::V, b: Self::V) -> [Self::V; 2] {
        [0, 1].map(|half| {
            let (low, high) =
                (self.avx._mm256_unpacklo_ps(a[half], b[half]), self.avx._mm256_unpackhi_ps(a[half], b[half]));
            [self.avx._mm256_permute2f128_ps::<0x20>(low, high), self.avx._mm256_permute2f128_ps::<0x31>(low, high)]
        })
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
        pair(a, b) = |s| {
            let [a, b] = [a, b].map(|x| s.avx._mm256_cvtps_epi32(x));
            cast(s.avx2._mm256_blend_epi16::<0xaa>(a, s.avx2._mm256_slli_epi32::<16>(b)))
        };
        dot(a, b, sums) = |s| cast(s.avx2._mm256_add_epi32(cast(sums), s.avx2._mm256_madd_epi16(cast(a), cast(b))));
        float(sums) = |s| s.avx._mm256_cvtepi32_ps(cast(sums));
        pow2(n) = |s| {
            let biased = s.avx2._mm256_add_epi32(s.avx._mm256_cvtps_epi32(n), s.avx._mm256_set1_epi32(127));
            s.avx._mm256_castsi256_ps(s.avx2._mm256_slli_epi32::<23>(biased))
        };
    }
}
