use super::*;
use crate::pool::{Pool, Scoped, Serial};
use crate::simd::element::Element;
use crate::simd::Isa;
use crate::testing::{as_f64, as_type, assert_close, normal, with_isa, with_numbers, ALL_ISAS};
use half::bf16;

/// out, logsumexp and dqkv from the formulas, in f64.
fn reference(heads: Heads, qkv: &[f64], dout: &[f64]) -> [Vec<f64>; 3] {
    let Heads { batch, positions: n, heads: count, width } = heads;
    let c = heads.channels();
    let mut out = vec![0.0; batch * n * c];
    let (mut sums, mut dqkv) = (vec![0.0; batch * count * n], vec![0.0; batch * n * 3 * c]);
    for (b, h) in (0..batch).flat_map(|b| (0..count).map(move |h| (b, h))) {
        let at = |k: usize, row: usize| (b * n + row) * 3 * c + k * c + h * width;
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let scale = 1.0 / (width as f64).sqrt();
        for i in 0..n {
            let q = &qkv[at(0, i)..][..width];
            let scores: Vec<f64> = (0..n).map(|j| scale * dot(q, &qkv[at(1, j)..][..width])).collect();
            let top = scores.iter().cloned().fold(f64::MIN, f64::max);
            let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
            sums[(b * count + h) * n + i] = top + sum.ln();
            let p: Vec<f64> = scores.iter().map(|s| (s - top).exp() / sum).collect();
            let row = (b * n + i) * c + h * width;
            let d_row = &dout[row..row + width];
            for (j, p) in p.iter().enumerate() {
                for k in 0..width {
                    out[row + k] += p * qkv[at(2, j) + k];
                    dqkv[at(2, j) + k] += p * d_row[k];
                }
            }
            let share = dot(&out[row..row + width], d_row);
            for (j, p) in p.iter().enumerate() {
                let ds = scale * p * (dot(d_row, &qkv[at(2, j)..][..width]) - share);
                for k in 0..width {
                    dqkv[at(0, i) + k] += ds * qkv[at(1, j) + k];
                    dqkv[at(1, j) + k] += ds * qkv[at(0, i) + k];
                }
            }
        }
    }
    [out, sums, dqkv]
}

fn check<T: Element>(pool: &dyn Pool, heads: Heads, scale: f32, tolerance: f64) -> [Vec<T>; 2] {
    check_sums(pool, heads, scale, tolerance, 2e-6)
}

/// The same with a tolerance of logsumexp.
fn check_sums<T: Element>(pool: &dyn Pool, heads: Heads, scale: f32, tolerance: f64, of_sums: f64) -> [Vec<T>; 2] {
    let size = heads.batch * heads.positions * heads.channels();
    let qkv: Vec<T> = as_type(&normal(3 * size, 1).iter().map(|x| x * scale).collect::<Vec<_>>());
    let dout: Vec<T> = as_type(&normal(size, 2));
    let [want, want_sums, want_dqkv] = reference(heads, &as_f64(&qkv), &as_f64(&dout));
    let mut out = vec![T::from_f32(f32::NAN); size];
    let mut sums = vec![f32::NAN; heads.batch * heads.heads * heads.positions];
    forward(pool, heads, &qkv, &mut out, &mut sums).unwrap();
    assert_close(&out, &want, tolerance, &format!("out {heads:?}"));
    assert_close(&sums, &want_sums, of_sums, &format!("logsumexp {heads:?}"));
    let mut dqkv = vec![T::from_f32(f32::NAN); 3 * size];
    backward(pool, heads, &qkv, (&out, &sums), &dout, &mut dqkv).unwrap();
    assert_close(&dqkv, &want_dqkv, 2.0 * tolerance, &format!("dqkv {heads:?}"));
    [out, dqkv]
}

fn cases() -> [Heads; 6] {
    [(2, 64, 4, 16), (1, 35, 3, 12), (3, 1, 1, 5), (1, 100, 2, 32), (2, 33, 1, 48), (1, 16, 2, 128)]
        .map(|(batch, positions, heads, width)| Heads { batch, positions, heads, width })
}

#[test]
fn agrees_with_f64_for_any_threads_on_every_instruction_set() {
    for isa in ALL_ISAS {
        with_isa(isa, || {
            for heads in cases() {
                let one = check::<f32>(&Serial, heads, 1.0, 3e-6);
                for threads in [2, 3, 5, 16] {
                    assert!(one == check::<f32>(&Scoped(threads), heads, 1.0, 3e-6), "{threads} threads");
                }
            }
        });
    }
}

/// Four threads in name, one in truth: notes into how many tasks each piece of work falls.
struct Counting(std::sync::Mutex<Vec<usize>>);

impl Pool for Counting {
    fn threads(&self) -> usize {
        4
    }
    fn run(&self, tasks: usize, body: &(dyn Fn(usize) + Sync)) -> Result {
        self.0.lock().unwrap().push(tasks);
        Serial.run(tasks, body)
    }
}

#[test]
fn one_image_occupies_all_threads() {
    for heads in [1, 2, 4, 5, 8] {
        let pool = Counting(std::sync::Mutex::default());
        check::<f32>(&pool, Heads { batch: 1, positions: 64, heads, width: 16 }, 1.0, 3e-6);
        let counts = pool.0.into_inner().unwrap();
        assert!(counts.len() == 3 && counts.iter().all(|count| *count >= 4), "{heads} heads: {counts:?}");
    }
}

#[test]
fn bfloat16_agrees_to_its_rounding() {
    with_numbers(Isa::Avx512, false, || {
        for heads in cases() {
            check::<bf16>(&Scoped(2), heads, 1.0, 8e-3);
        }
    });
}

#[test]
fn whole_numbers_agree_to_bfloat16s_rounding_for_any_threads_on_every_instruction_set() {
    let more = [(1, 81, 2, 48), (2, 64, 1, 8), (1, 145, 1, 128)];
    let more = more.map(|(batch, positions, heads, width)| Heads { batch, positions, heads, width });
    for isa in ALL_ISAS {
        with_numbers(isa, true, || {
            for heads in cases().into_iter().chain(more) {
                let one = check_sums::<bf16>(&Serial, heads, 1.0, 8e-3, 5e-5);
                assert!(one == check_sums::<bf16>(&Scoped(3), heads, 1.0, 8e-3, 5e-5));
            }
        });
    }
}

#[test]
fn whole_numbers_hold_large_scores_and_long_sums() {
    let heads = Heads { batch: 1, positions: 256, heads: 2, width: 64 };
    with_numbers(Isa::Avx512, true, || {
        check_sums::<bf16>(&Serial, heads, 8.0, 2e-2, 1e-4);
        // Equal queries and keys, and values of one sign: every sum is as long as the scales allow.
        for size in [1.0, 1e-12, 1e12] {
            let qkv: Vec<bf16> =
                (0..256 * 384).map(|k| bf16::from_f32(if k % 384 < 256 { 0.25 } else { size })).collect();
            let (mut out, mut sums) = (vec![bf16::ZERO; 256 * 128], vec![0.0; 512]);
            forward(&Serial, heads, &qkv, &mut out, &mut sums).unwrap();
            let value = bf16::from_f32(size);
            assert!(out.iter().all(|x| (x.to_f32() / value.to_f32() - 1.0).abs() < 4e-3), "{size}: {}", out[0]);
        }
    });
}

#[test]
fn whole_numbers_keep_what_many_small_probabilities_add_up_to() {
    // One key has e^8 times the probability of each of 1023 others, which hold a quarter of the sum together.
    let heads = Heads { batch: 1, positions: 1024, heads: 1, width: 16 };
    let mut qkv = vec![0.0f32; 1024 * 48];
    for (position, row) in qkv.chunks_exact_mut(48).enumerate() {
        row[0] = 4.0;
        row[16] = if position == 7 { 8.0 } else { 0.0 };
        row[32] = if position == 7 { 0.0 } else { 1.0 };
    }
    let qkv = as_type::<bf16>(&qkv);
    with_numbers(Isa::Avx512, true, || {
        let (mut out, mut sums) = (vec![bf16::ZERO; 1024 * 16], vec![0.0; 1024]);
        forward(&Serial, heads, &qkv, &mut out, &mut sums).unwrap();
        let want = 1023.0 / (1023.0 + 8.0f32.exp());
        assert!((out[0].to_f32() / want - 1.0).abs() < 1e-2, "{}, not {want}", out[0]);
    });
}

#[test]
fn large_scores_do_not_overflow() {
    let heads = Heads { batch: 1, positions: 40, heads: 2, width: 16 };
    check::<f32>(&Serial, heads, 20.0, 1e-4);
}

#[test]
fn misfits_are_errors() {
    let heads = Heads { batch: 1, positions: 4, heads: 1, width: 2 };
    let (qkv, mut out, mut sums) = ([0.0f32; 24], [0.0; 8], [0.0; 4]);
    assert!(forward(&Serial, heads, &qkv, &mut out, &mut sums).is_ok());
    assert!(forward(&Serial, heads, &qkv[1..], &mut out, &mut sums).is_err());
    assert!(forward(&Serial, heads, &qkv, &mut out[1..], &mut sums).is_err());
    assert!(forward(&Serial, Heads { heads: 0, ..heads }, &[0.0; 0], &mut [], &mut []).is_err());
    assert!(backward(&Serial, heads, &qkv, (&out, &sums), &[0.0; 7], &mut [0.0; 24]).is_err());
}

#[test]
fn what_is_not_a_number_reaches_the_output() {
    let heads = Heads { batch: 1, positions: 20, heads: 1, width: 8 };
    for at in [3 * 24, 3 * 24 + 8, 3 * 24 + 16] {
        let mut qkv = normal(20 * 24, 1);
        qkv[at] = f32::NAN;
        let (mut out, mut sums) = (vec![0.0; 20 * 8], vec![0.0; 20]);
        forward(&Serial, heads, &qkv, &mut out, &mut sums).unwrap();
        assert!(out.iter().any(|x| x.is_nan()), "NaN at {at}");
    }
    let heads = Heads { positions: 70, ..heads };
    with_numbers(Isa::Avx512, true, || {
        for at in [3 * 24, 3 * 24 + 8, 3 * 24 + 16] {
            let mut qkv = as_type::<bf16>(&normal(70 * 24, 1));
            qkv[at] = bf16::NAN;
            let (mut out, mut sums) = (vec![bf16::ZERO; 70 * 8], vec![0.0; 70]);
            forward(&Serial, heads, &qkv, &mut out, &mut sums).unwrap();
            assert!(out.iter().any(|x| x.is_nan()), "NaN at {at}");
        }
    });
}
