//! Everything `unsafe` in this crate: SIMD registers, run-time dispatch and the sharing-out of one buffer among tasks.
//!
//! A kernel is written once, generically over [`Simd`], whose register always holds 16 floats (one cache line, one block
//! of channels): one 512-bit register, two of 256 bits, or an array that the compiler vectorises as it can.

use half::bf16;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// Floats in one register and in one cache line.
pub const LANES: usize = 16;

/// One cache line of floats, aligned as such.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Line(pub [f32; LANES]);

impl Line {
    pub const ZERO: Line = Line([0.0; LANES]);
}

/// Sixteen floats at a time. The implementing values are proofs that the instructions exist: only [`dispatch`] makes them.
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
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        if avx2 && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
            return Isa::Avx512;
        }
        if avx2 {
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
    match isa() {
        // SAFETY: `isa` is never above what `detect` found on this machine.
        Isa::Avx512 => return unsafe { x86::run_avx512(kernel) },
        // SAFETY: as above.
        Isa::Avx2 => return unsafe { x86::run_avx2(kernel) },
        Isa::Portable => {}
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
    use super::{bf16, Kernel, Simd, LANES};
    use std::arch::x86_64::*;

    #[derive(Clone, Copy)]
    pub struct Avx512(());
    #[derive(Clone, Copy)]
    pub struct Avx2(());

    /// SAFETY: the caller has seen that the machine has these features.
    #[target_feature(enable = "avx512f,avx512bw,avx2,fma")]
    pub unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Out {
        kernel.run(Avx512(()))
    }

    /// SAFETY: the caller has seen that the machine has these features.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Out {
        kernel.run(Avx2(()))
    }

    macro_rules! avx512 {
        ($($name:ident($($arg:ident: $kind:ty),*) -> $out:ty = $value:expr;)*) => {
            $(#[inline(always)]
            fn $name(self, $($arg: $kind),*) -> $out {
                // SAFETY: an `Avx512` exists only inside `run_avx512`, so the instructions do; memory operands are
                // whole arrays behind references and need no alignment.
                unsafe { $value }
            })*
        };
    }

    impl Simd for Avx512 {
        type V = __m512;
        const ROWS: usize = 12;
        const COLS: usize = 2;
        avx512! {
            splat(x: f32) -> __m512 = _mm512_set1_ps(x);
            load(from: &[f32; LANES]) -> __m512 = _mm512_loadu_ps(from.as_ptr());
            store(to: &mut [f32; LANES], v: __m512) -> () = _mm512_storeu_ps(to.as_mut_ptr(), v);
            load_bf16(from: &[bf16; LANES]) -> __m512 = {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            };
            store_bf16(to: &mut [bf16; LANES], v: __m512) -> () = {
                let bits = _mm512_castps_si512(v);
                let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
                let rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
                let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
                let kept = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x0040_0000));
                let short = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(kept));
                _mm256_storeu_si256(to.as_mut_ptr().cast(), short)
            };
            add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
            sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
            mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
            div(a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b);
            min(a: __m512, b: __m512) -> __m512 = _mm512_min_ps(a, b);
            max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
            sqrt(a: __m512) -> __m512 = _mm512_sqrt_ps(a);
            fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
            pow2(n: __m512) -> __m512 = {
                let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
                _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
            };
        }
    }

    macro_rules! avx2 {
        ($($name:ident($($arg:ident),*) = $value:expr;)*) => {
            $(#[inline(always)]
            fn $name(self, $($arg: Self::V),*) -> Self::V {
                // SAFETY: an `Avx2` exists only inside `run_avx2`, so the instructions do.
                unsafe { [{ $(let $arg = $arg[0];)* $value }, { $(let $arg = $arg[1];)* $value }] }
            })*
        };
    }

    impl Simd for Avx2 {
        type V = [__m256; 2];
        const ROWS: usize = 6;
        const COLS: usize = 1;

        #[inline(always)]
        fn splat(self, x: f32) -> Self::V {
            // SAFETY: as in `avx2!`.
            unsafe { [_mm256_set1_ps(x); 2] }
        }
        #[inline(always)]
        fn load(self, from: &[f32; LANES]) -> Self::V {
            // SAFETY: as in `avx2!`; the two halves lie within the array.
            unsafe { [_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))] }
        }
        #[inline(always)]
        fn store(self, to: &mut [f32; LANES], v: Self::V) {
            // SAFETY: as in `avx2!`; the two halves lie within the array.
            unsafe {
                _mm256_storeu_ps(to.as_mut_ptr(), v[0]);
                _mm256_storeu_ps(to.as_mut_ptr().add(8), v[1]);
            }
        }
        #[inline(always)]
        fn load_bf16(self, from: &[bf16; LANES]) -> Self::V {
            self.load(&super::Portable.load_bf16(from))
        }
        #[inline(always)]
        fn store_bf16(self, to: &mut [bf16; LANES], v: Self::V) {
            let mut lanes = [0.0; LANES];
            self.store(&mut lanes, v);
            super::Portable.store_bf16(to, lanes);
        }
        avx2! {
            add(a, b) = _mm256_add_ps(a, b);
            sub(a, b) = _mm256_sub_ps(a, b);
            mul(a, b) = _mm256_mul_ps(a, b);
            div(a, b) = _mm256_div_ps(a, b);
            min(a, b) = _mm256_min_ps(a, b);
            max(a, b) = _mm256_max_ps(a, b);
            sqrt(a) = _mm256_sqrt_ps(a);
            fma(a, b, c) = _mm256_fmadd_ps(a, b, c);
            pow2(n) = {
                let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
            };
        }
    }
}

/// One buffer shared out among tasks in consecutive pieces, each handed out at most once.
pub struct Split<'a, T> {
    start: *mut T,
    bounds: Vec<usize>,
    taken: Vec<AtomicBool>,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: a `Split` only ever hands out disjoint `&mut [T]`, each to one caller, so sharing it is sending those pieces.
unsafe impl<T: Send> Sync for Split<'_, T> {}

impl<'a, T> Split<'a, T> {
    /// Piece i is `data[end(i - 1)..end(i)]`, with `end(-1)` = 0; ends that fall or pass the buffer's are clipped.
    pub fn new(data: &'a mut [T], pieces: usize, end: impl Fn(usize) -> usize) -> Self {
        let mut bounds = vec![0];
        for i in 0..pieces {
            bounds.push(end(i).clamp(bounds[i], data.len()));
        }
        let taken = (0..pieces).map(|_| AtomicBool::new(false)).collect();
        Split { start: data.as_mut_ptr(), bounds, taken, life: PhantomData }
    }

    /// Piece i. Empty when there is no such piece or it is taken already.
    pub fn take(&self, i: usize) -> &'a mut [T] {
        match self.taken.get(i) {
            Some(taken) if !taken.swap(true, Ordering::Relaxed) => {
                let (lo, hi) = (self.bounds[i], self.bounds[i + 1]);
                // SAFETY: bounds rise and stay within the buffer, so pieces are disjoint; the flag makes this piece's
                // reference the only one; the buffer is borrowed mutably for 'a.
                unsafe { std::slice::from_raw_parts_mut(self.start.add(lo), hi - lo) }
            }
            _ => &mut [],
        }
    }
}
