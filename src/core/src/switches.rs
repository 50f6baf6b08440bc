//! Who computes on the CPU. The machine decides; tests and measurements can decide otherwise, for the
//! whole process and before anything is computed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::LazyLock;

use diffusion_kernels::simd::{self, Isa};

use crate::choice::Choice;

static PLAIN_LOOPS_TOO: AtomicBool = AtomicBool::new(false);
static ALL_TO_LIBTORCH: AtomicBool = AtomicBool::new(false);
static BFLOAT16_TO_LIBTORCH: LazyLock<AtomicBool> = LazyLock::new(|| AtomicBool::new(simd::has_matrix_units()));

/// What computes networks on the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernels {
    /// Kernels as below, but for convolutions in bfloat16: libtorch's use the processor's matrix units, which do several
    /// times what vectors can. Where there are none, this is a trial of the same way.
    Amx,
    Avx512,
    Avx2,
    /// The same kernels as plain loops, slower than libtorch: only where they are asked for.
    Portable,
    Libtorch,
}

impl Choice for Kernels {
    const WHAT: &'static str = "RUST_DIFFUSION_KERNELS";
    const ALL: &'static [(&'static str, Self)] = &[
        ("AMX", Self::Amx),
        ("AVX-512", Self::Avx512),
        ("AVX2", Self::Avx2),
        ("portable", Self::Portable),
        ("libtorch", Self::Libtorch),
    ];
}

impl Kernels {
    pub fn in_use() -> Self {
        if ALL_TO_LIBTORCH.load(Ordering::Relaxed) {
            return Self::Libtorch;
        }
        match simd::isa() {
            Isa::Avx512 | Isa::Avx2 if BFLOAT16_TO_LIBTORCH.load(Ordering::Relaxed) => Self::Amx,
            Isa::Avx512 => Self::Avx512,
            Isa::Avx2 => Self::Avx2,
            Isa::Portable if PLAIN_LOOPS_TOO.load(Ordering::Relaxed) => Self::Portable,
            Isa::Portable => Self::Libtorch,
        }
    }

    /// Takes these, or the best below them that the machine has.
    pub fn switch_to(self) {
        ALL_TO_LIBTORCH.store(self == Self::Libtorch, Ordering::Relaxed);
        BFLOAT16_TO_LIBTORCH.store(self == Self::Amx, Ordering::Relaxed);
        PLAIN_LOOPS_TOO.store(self == Self::Portable, Ordering::Relaxed);
        simd::limit_isa(match self {
            Self::Amx | Self::Avx512 | Self::Libtorch => Isa::Avx512,
            Self::Avx2 => Isa::Avx2,
            Self::Portable => Isa::Portable,
        });
    }
}
