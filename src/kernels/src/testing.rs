//! What tests share: numbers to fill tensors with, and the distance of two results.

use crate::choose_whole;
use crate::simd::element::Element;
use crate::simd::{limit_isa, Isa};
use std::sync::Mutex;

/// `n` numbers from a normal-like distribution (mean 0, deviation 1), the same for the same seed.
pub fn normal(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / 16_777_216.0
    };
    (0..n).map(|_| ((0..12).map(|_| uniform()).sum::<f32>()) - 6.0).collect()
}

pub fn as_type<T: Element>(x: &[f32]) -> Vec<T> {
    x.iter().map(|&x| T::from_f32(x)).collect()
}

pub fn as_f64<T: Element>(x: &[T]) -> Vec<f64> {
    x.iter().map(|x| f64::from(x.to_f32())).collect()
}

/// max |got - want| / max |want|.
pub fn error<T: Element>(got: &[T], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let scale = want.iter().fold(1e-300, |m: f64, x| m.max(x.abs()));
    as_f64(got).iter().zip(want).fold(0.0, |m: f64, (g, w)| m.max((g - w).abs())) / scale
}

#[track_caller]
pub fn assert_close<T: Element>(got: &[T], want: &[f64], tolerance: f64, what: &str) {
    let error = error(got, want);
    assert!(error <= tolerance, "{what}: error {error:.3e} above {tolerance:.1e}");
}

static ISA_IN_TESTS: Mutex<()> = Mutex::new(());

/// Runs `body` with at most the instruction set `most`; tests that need it to stay the same take turns here.
pub fn with_isa<R>(most: Isa, body: impl FnOnce() -> R) -> R {
    let _turn = ISA_IN_TESTS.lock().unwrap_or_else(|broken| broken.into_inner());
    limit_isa(most);
    let result = body();
    limit_isa(Isa::Avx512);
    result
}

/// The same with the numbers that bfloat16's convolutions are multiplied in.
pub fn with_numbers<R>(most: Isa, whole: bool, body: impl FnOnce() -> R) -> R {
    with_isa(most, || {
        choose_whole(Some(whole));
        let result = body();
        choose_whole(None);
        result
    })
}

pub const ALL_ISAS: [Isa; 3] = [Isa::Portable, Isa::Avx2, Isa::Avx512];
