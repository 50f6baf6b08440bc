use super::reference::{direct, direct_gradient, direct_weight_gradient, output};
use super::*;
use crate::pool::{Pool, Scoped, Serial};
use crate::simd::element::Element;
use crate::simd::Isa;
use crate::source::{Images, Source};
use crate::testing::{as_f64, as_type, assert_close, error, normal, with_isa, ALL_ISAS};
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
fn bfloat16_agrees_to_its_rounding() {
    for (case, method) in pairs() {
        check_both::<bf16>(&Scoped(2), case, method, 4e-3);
    }
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
                for threads in [2, 7] {
                    assert!(one == check_weights::<f32>(&Scoped(threads), case, method), "{threads} threads");
                }
                check_weights::<bf16>(&Scoped(2), case, method);
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
