use super::reference::{direct, direct_gradient, direct_weight_gradient, output};
use super::*;
use crate::pool::{Pool, Scoped, Serial};
use crate::simd::element::Element;
use crate::simd::Isa;
use crate::source::{Images, Source};
use crate::testing::{as_f64, as_type, assert_close, error, normal, with_isa, with_numbers, ALL_ISAS};
use half::bf16;

const METHODS: [Method; 4] = [Method::F4, Method::Upsample, Method::Downsample, Method::DownsampleAfter];

fn images(batch: usize, height: usize, width: usize) -> Images {
    Images { batch, height, width }
}

fn cases() -> Vec<(Images, [usize; 2], usize)> {
    vec![
        (images(2, 8, 8), [64, 0], 64),
        (images(1, 5, 7), [16, 0], 48),
        (images(3, 1, 1), [3, 0], 1),
        (images(2, 9, 4), [48, 16], 96),
        (images(2, 8, 8), [57, 40], 80),
        (images(1, 13, 6), [33, 7], 17),
        (images(1, 8, 8), [192, 0], 32),
        (images(1, 3, 4), [160, 0], 160),
        (images(1, 40, 37), [8, 0], 16),
    ]
}

/// Every case with every method that leaves something of its images.
fn pairs() -> impl Iterator<Item = ((Images, [usize; 2], usize), Method)> {
    let all = cases().into_iter().flat_map(|case| METHODS.map(|method| (case, method)));
    all.filter(|((from, ..), method)| output(*from, *method).pixels() > 0)
}

fn weights(inputs: usize, outputs: usize) -> Vec<f32> {
    let scale = 1.0 / (9.0 * inputs as f32).sqrt();
    normal(inputs * outputs * 9, 5).iter().map(|w| w * scale).collect()
}

/// The concatenation of two parts.
fn whole<T: Element>(x: &[Vec<T>; 2], parts: [usize; 2]) -> Vec<f64> {
    let pixels = x[0].len() / parts[0];
    (0..pixels).flat_map(|p| [0, 1].map(|k| as_f64(&x[k][p * parts[k]..(p + 1) * parts[k]])).concat()).collect()
}

/// Forward with all addends, and the input's gradient; both against the definition. Returns both.
fn check_both<T: Element>(
    pool: &dyn Pool,
    (from, parts, outputs): (Images, [usize; 2], usize),
    method: Method,
    tolerance: f64,
) -> [Vec<T>; 2] {
    let (to, inputs) = (output(from, method), parts[0] + parts[1]);
    let w = weights(inputs, outputs);
    let positions = from.batch * from.pixels();
    let x = parts.map(|c| as_type::<T>(&normal(positions * c, 1 + c as u64)));
    let whole = whole(&x, parts);
    let outs = to.batch * to.pixels() * outputs;
    let bias = normal(outputs, 2);
    let residual: Vec<T> = as_type(&normal(outs, 4));
    let mut y = vec![T::from_f32(f32::NAN); outs];
    let mut want = direct(from, &whole, inputs, &w, outputs, method);
    for (k, want) in want.iter_mut().enumerate() {
        *want += f64::from(bias[k % outputs] + residual[k].to_f32());
    }
    let mut source = Source::new(&x[0], parts[0]);
    if parts[1] > 0 {
        source = source.concat(&x[1], parts[1]);
    }
    let addends = Addends { bias: Some(&bias), residual: Some(&residual) };
    let filter = Filter::new(method, &w, outputs, parts).unwrap();
    convolve(pool, from, &source, &filter, &addends, to, &mut y).unwrap();
    assert_close(&y, &want, tolerance, &format!("{method:?} {from:?} {parts:?} -> {outputs}"));

    let dy: Vec<T> = as_type(&normal(outs, 7));
    let want = direct_gradient(from, &as_f64(&dy), inputs, &w, outputs, method);
    let mut dx = vec![T::from_f32(f32::NAN); positions * inputs];
    let filter = Filter::of_input_gradient(method, &w, outputs, inputs).unwrap();
    convolve(pool, to, &Source::new(&dy, outputs), &filter, &Addends::default(), from, &mut dx).unwrap();
    assert_close(&dx, &want, tolerance, &format!("{method:?} gradient {from:?} {parts:?} -> {outputs}"));
    [y, dx]
}

#[test]
fn all_methods_agree_with_the_definition_on_every_instruction_set() {
    for isa in ALL_ISAS {
        with_isa(isa, || {
            for (case, method) in pairs() {
                check_both::<f32>(&Serial, case, method, 3e-6);
            }
        });
    }
}

#[test]
fn bfloat16_agrees_to_its_rounding_in_floats_and_in_whole_numbers() {
    for isa in ALL_ISAS {
        for whole in [false, true] {
            with_numbers(isa, whole, || {
                for (case, method) in pairs() {
                    check_both::<bf16>(&Scoped(2), case, method, 4e-3);
                }
            });
        }
    }
}

/// A prediction's rounding, as the root of the mean square relative to that of the result.
fn rounding(x: &[bf16], w: &[f32], from: Images, [inputs, outputs]: [usize; 2]) -> f64 {
    let want = direct(from, &as_f64(x), inputs, w, outputs, Method::F4);
    let y = as_f64(&convolved(from, x, w, [inputs, outputs]));
    let sum = |f: &dyn Fn(usize) -> f64| (0..y.len()).map(|k| f(k).powi(2)).sum::<f64>();
    (sum(&|k| y[k] - want[k]) / sum(&|k| want[k])).sqrt()
}

/// By F4, on two threads.
fn convolved(from: Images, x: &[bf16], w: &[f32], [inputs, outputs]: [usize; 2]) -> Vec<bf16> {
    let filter = Filter::new(Method::F4, w, outputs, [inputs, 0]).unwrap();
    let mut y = vec![bf16::ZERO; from.batch * from.pixels() * outputs];
    convolve(&Scoped(2), from, &Source::new(x, inputs), &filter, &Addends::default(), from, &mut y).unwrap();
    y
}

#[test]
fn whole_numbers_round_as_much_as_products_of_bfloat16() {
    // PyTorch under autocast: 2.3e-3 to 2.4e-3 (`python -m benchmarks.rounding`). What the result is rounded to is 1.7e-3 of it.
    let silu = |x: &f32| bf16::from_f32(x / (1.0 + (-x).exp()));
    with_numbers(Isa::Avx512, true, || {
        for inputs in [64, 160, 512] {
            let from = images(2, 8, 8);
            let x: Vec<bf16> = normal(from.batch * 64 * inputs, 3).iter().map(silu).collect();
            let error = rounding(&x, &weights(inputs, 32), from, [inputs, 32]);
            assert!(error < 2.4e-3, "{inputs}: {error:.2e}");
        }
    });
}

#[test]
fn whole_numbers_hold_the_longest_sums() {
    // The signs that the transforms of images and filters add up to the most, in all channels or in one.
    let sign = |place: usize| if place % 4 < 2 { -1.0 } else { 1.0 };
    with_numbers(Isa::Avx512, true, || {
        for (inputs, size) in [(32, 1.0), (128, 1e-12), (512, 1e-25), (128, 1e25), (96, 3e30)] {
            for every in [1, inputs] {
                let value = |k: usize| {
                    let (pixel, channel) = (k / inputs, k % inputs);
                    if channel % every == 0 {
                        size * sign(pixel / 9) * sign(pixel % 9)
                    } else {
                        0.0
                    }
                };
                let from = images(1, 9, 9);
                let x: Vec<bf16> = (0..81 * inputs).map(|k| bf16::from_f32(value(k))).collect();
                let error = rounding(&x, &vec![0.01; 9 * inputs * 16], from, [inputs, 16]);
                assert!(error < 4e-3, "{inputs} channels, {size}, one in {every}: {error:.2e}");
            }
        }
    });
}

#[test]
fn in_whole_numbers_an_image_is_its_own() {
    let (one, all, w) = (images(1, 8, 12), images(3, 8, 12), weights(64, 96));
    let mut x = as_type::<bf16>(&normal(3 * 96 * 64, 1));
    x[..96 * 64].iter_mut().for_each(|x| *x = bf16::from_f32(x.to_f32() * 1e4));
    with_numbers(Isa::Avx512, true, || {
        let every = convolved(all, &x, &w, [64, 96]);
        for k in 0..3 {
            let own = convolved(one, &x[k * 96 * 64..][..96 * 64], &w, [64, 96]);
            assert!(own == every[k * 96 * 96..][..96 * 96], "image {k}");
        }
        for bad in [f32::NAN, f32::INFINITY, 3e38] {
            x[96 * 64 + 5] = bf16::from_f32(bad);
            let spoilt = convolved(all, &x, &w, [64, 96]);
            assert!(spoilt[96 * 96..2 * 96 * 96].iter().all(|y| y.is_nan()), "{bad}");
            assert!(spoilt[..96 * 96] == every[..96 * 96] && spoilt[2 * 96 * 96..] == every[2 * 96 * 96..]);
        }
        let nothing = convolved(one, &vec![bf16::ZERO; 96 * 64], &w, [64, 96]);
        assert!(nothing.iter().all(|y| *y == bf16::ZERO));
        let mut w = w.clone();
        w[7] = f32::NAN;
        let spoilt = convolved(one, &x[..96 * 64], &w, [64, 96]);
        assert!(spoilt.chunks(96).all(|pixel| pixel[0].is_nan() && !pixel[1].is_nan()));
    });
}

#[test]
fn results_do_not_depend_on_threads() {
    with_isa(Isa::Avx512, || {
        for (case, method) in pairs() {
            let one = check_both::<f32>(&Serial, case, method, 3e-6);
            for threads in [2, 3, 7] {
                assert!(one == check_both(&Scoped(threads), case, method, 3e-6), "{method:?}, {threads} threads");
            }
        }
    });
    with_numbers(Isa::Avx512, true, || {
        for (case, method) in pairs() {
            let one = check_both::<bf16>(&Serial, case, method, 4e-3);
            for threads in [2, 3, 7] {
                assert!(one == check_both(&Scoped(threads), case, method, 4e-3), "{method:?}, {threads} threads");
            }
        }
    });
}

#[test]
fn rounding_stays_small_with_many_channels() {
    let from = images(1, 8, 8);
    let (x, w) = (normal(64 * 512, 1), weights(512, 16));
    let want = direct(from, &as_f64(&x), 512, &w, 16, Method::F4);
    let filter = Filter::new(Method::F4, &w, 16, [512, 0]).unwrap();
    let mut y = vec![0.0; want.len()];
    convolve(&Serial, from, &Source::new(&x, 512), &filter, &Addends::default(), from, &mut y).unwrap();
    assert!(error(&y, &want) < 2e-6, "{:.2e}", error(&y, &want));
}

#[test]
fn misfits_are_errors() {
    let (from, w, x) = (images(1, 4, 4), vec![0.0; 2 * 3 * 9], vec![0.0f32; 48]);
    assert!(Filter::new(Method::F4, &w, 2, [2, 0]).is_err());
    assert!(Filter::new(Method::F4, &[], 0, [2, 0]).is_err());
    let filter = Filter::new(Method::F4, &w, 2, [3, 0]).unwrap();
    let mut y = vec![0.0; 32];
    let none = Addends::default();
    let source = Source::new(&x, 3);
    assert!(convolve(&Serial, from, &source, &filter, &none, from, &mut y).is_ok());
    assert!(convolve(&Serial, from, &source, &filter, &none, images(1, 8, 2), &mut y).is_err());
    assert!(convolve(&Serial, from, &source, &filter, &none, from, &mut y[1..]).is_err());
    assert!(convolve(&Serial, from, &Source::new(&x[1..], 3), &filter, &none, from, &mut y).is_err());
    assert!(convolve(&Serial, from, &source.shifted(&[0.0; 3]), &filter, &none, from, &mut y).is_err());
    let (nothing, after) = (images(1, 1, 1), Filter::new(Method::DownsampleAfter, &w, 2, [3, 0]).unwrap());
    assert!(convolve(&Serial, nothing, &Source::new(&x[..3], 3), &after, &none, images(1, 0, 0), &mut []).is_err());
    let short = Addends { bias: Some(&[0.0]), ..none };
    assert!(convolve(&Serial, from, &Source::new(&x, 3), &filter, &short, from, &mut y).is_err());
}

fn check_weights<T: Element>(
    pool: &dyn Pool,
    (from, parts, outputs): (Images, [usize; 2], usize),
    method: Method,
) -> [Vec<f32>; 2] {
    let (to, inputs) = (output(from, method), parts[0] + parts[1]);
    let positions = from.batch * from.pixels();
    let x = parts.map(|c| as_type::<T>(&normal(positions * c, 1 + c as u64)));
    let dy: Vec<T> = as_type(&normal(to.batch * to.pixels() * outputs, 7));
    let want = direct_weight_gradient(from, &whole(&x, parts), inputs, &as_f64(&dy), outputs, method);
    let mut source = Source::new(&x[0], parts[0]);
    if parts[1] > 0 {
        source = source.concat(&x[1], parts[1]);
    }
    let (mut dw, mut dbias) = (vec![f32::NAN; want[0].len()], vec![f32::NAN; outputs]);
    weight_gradient(pool, method, from, &source, to, &dy, &mut dw, Some(&mut dbias)).unwrap();
    let what = format!("{method:?} {from:?} {parts:?} -> {outputs}");
    assert_close(&dw, &want[0], 3e-6, &what);
    assert_close(&dbias, &want[1], 2e-6, &what);
    [dw, dbias]
}

#[test]
fn weight_gradients_agree_with_the_definition_for_any_threads() {
    for isa in ALL_ISAS {
        with_isa(isa, || {
            for (case, method) in pairs() {
                let one = check_weights::<f32>(&Serial, case, method);
                let short = check_weights::<bf16>(&Serial, case, method);
                for threads in [2, 7, 16] {
                    assert!(one == check_weights::<f32>(&Scoped(threads), case, method), "{threads} threads");
                    assert!(short == check_weights::<bf16>(&Scoped(threads), case, method), "{threads} threads");
                }
            }
        });
    }
}

#[test]
fn misfits_of_weight_gradients_are_errors() {
    let (from, x, dy) = (images(1, 4, 4), vec![0.0f32; 48], vec![0.0f32; 32]);
    let attempt = |to, x: &[f32], dw: usize, bias: usize| {
        let (mut dw, mut bias) = (vec![0.0; dw], vec![0.0; bias]);
        weight_gradient(&Serial, Method::F4, from, &Source::new(x, 3), to, &dy, &mut dw, Some(&mut bias))
    };
    assert!(attempt(from, &x, 54, 2).is_ok());
    assert!(attempt(from, &x, 53, 2).is_err());
    assert!(attempt(from, &x, 54, 3).is_err());
    assert!(attempt(from, &x[1..], 54, 2).is_err());
    assert!(attempt(images(1, 2, 8), &x, 54, 2).is_err());
}
