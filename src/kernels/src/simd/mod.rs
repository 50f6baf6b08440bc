//! SIMD registers, and the choice of an instruction set at run time.
//!
//! A kernel is written once, generically over [`Simd`], whose register always holds 16 floats (one cache line, one block
//! of channels): one 512-bit register, two of 256 bits, or an array that the compiler vectorises as it can.

pub mod element;
pub mod math;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::atomic::{AtomicU8, Ordering};

use half::bf16;
#[cfg(target_arch = "x86_64")]
use pulp::x86::{V3, V4};
#[cfg(target_arch = "x86_64")]
use raw_cpuid::CpuId;

use portable::Portable;

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
    /// table[index - less] of each lane, modulo 32.
    fn lookup(self, table: &[f32; 2 * LANES], index: &[u32; LANES], less: u32) -> Self::V;
    /// a * b + c of half a register, rounded as `fma` rounds.
    fn fma_half(self, a: f32, b: [f32; LANES / 2], c: [f32; LANES / 2]) -> [f32; LANES / 2];
    /// The lanes of both in turn: a0 b0 a1 b1 ...
    fn zip(self, a: Self::V, b: Self::V) -> [Self::V; 2];
    /// Rounds both to whole numbers, which must lie in [-32767, 32767]: a register of 16 pairs of them.
    fn pair(self, a: Self::V, b: Self::V) -> Self::V;
    /// Adds the products of pairs of whole numbers to sums of them, which are whole numbers of 32 bits.
    fn dot(self, a: Self::V, b: Self::V, sums: Self::V) -> Self::V;
    /// Sums of whole numbers as floats.
    fn float(self, sums: Self::V) -> Self::V;
}

/// Rows to columns: a zip of every row with the one 8 further on moves one bit of the row's number into the lane's, and four
/// move all of them.
#[inline(always)]
pub fn transposed<S: Simd>(s: S, mut rows: [S::V; LANES]) -> [S::V; LANES] {
    for _ in 0..LANES.ilog2() {
        let mut zipped = rows;
        for i in 0..LANES / 2 {
            [zipped[2 * i], zipped[2 * i + 1]] = s.zip(rows[i], rows[i + LANES / 2]);
        }
        rows = zipped;
    }
    rows
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

/// Whether the processor has units of their own for products of bfloat16 matrices (AMX), which no kernel here uses.
pub fn has_matrix_units() -> bool {
    #[cfg(target_arch = "x86_64")]
    return CpuId::new().get_extended_feature_info().is_some_and(|has| has.has_amx_tile() && has.has_amx_bf16());
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Whether the processor multiplies whole numbers of 16 bits at twice the pace of floats, as those do that have products of
/// bfloat16.
pub fn has_short_products() -> bool {
    #[cfg(target_arch = "x86_64")]
    return isa() == Isa::Avx512 && x86::Short::try_new().is_some();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Whether the processor makes products of bfloat16 more slowly than those of whole numbers: Intel's, which were measured at
/// a quarter of the pace. AMD's make both at the same.
pub fn has_slow_bfloat16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return CpuId::new().get_vendor_info().is_some_and(|vendor| vendor.as_str() == "GenuineIntel");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// As [`dispatch`], with an instruction for [`Simd::dot`] where the processor has one.
pub fn dispatch_short<K: Kernel>(kernel: K) -> K::Out {
    #[cfg(target_arch = "x86_64")]
    if let (Isa::Avx512, Some(short), Some(simd)) = (isa(), x86::Short::try_new(), V4::try_new()) {
        return short.vectorize(x86::Run(kernel, simd));
    }
    dispatch(kernel)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{with_isa, ALL_ISAS};

    struct Transpose<'a>(&'a mut [Line; LANES]);
    impl Kernel for Transpose<'_> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let columns = transposed(s, self.0.map(|row| s.load(&row.0)));
            self.0.iter_mut().zip(columns).for_each(|(line, column)| s.store(&mut line.0, column));
        }
    }

    #[test]
    fn rows_become_columns_on_every_instruction_set() {
        for isa in ALL_ISAS {
            with_isa(isa, || {
                let mut lines = std::array::from_fn(|row| Line(std::array::from_fn(|lane| (100 * row + lane) as f32)));
                dispatch(Transpose(&mut lines));
                for (row, line) in lines.iter().enumerate() {
                    assert_eq!(line.0, std::array::from_fn(|lane| (100 * lane + row) as f32), "{isa:?}");
                }
            });
        }
    }
}
