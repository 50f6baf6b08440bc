use super::*;
use crate::pool::{Pool, Scoped, Serial};
use crate::simd::element::Element;
use crate::simd::Isa;
use crate::testing::{as_f64, as_type, assert_close, normal, with_isa, ALL_ISAS};
use half::bf16;

struct Case {
    images: Images,
    channels: [usize; 2],
    groups: usize,
    silu: bool,
    /// The probability; the mask follows from it.
    dropout: Option<f64>,
    shifted: bool,
    mean: f32,
}

/// Everything the layer computes, in f64, straight from the formulas.
struct Reference {
    y: Vec<f64>,
    mean: Vec<f64>,
    rstd: Vec<f64>,
    dx: [Vec<f64>; 2],
    dweight: Vec<f64>,
    dbias: Vec<f64>,
    dshift: Vec<f64>,
}

fn reference(case: &Case, parts: [&[f64]; 2], shift: &[f32], weight: &[f32], bias: &[f32], dy: &[f64]) -> Reference {
    let (n, pixels, [c1, c2]) = (case.images.batch, case.images.pixels(), case.channels);
    let (channels, width) = (c1 + c2, (c1 + c2) / case.groups);
    let at = |b: usize, p: usize, c: usize| (b * pixels + p) * channels + c;
    let kept = mask(case);
    let mut x = vec![0.0; n * pixels * channels];
    for (b, p, c) in each(n, pixels, channels) {
        let place = b * pixels + p;
        let own = if c < c1 { parts[0][place * c1 + c] } else { parts[1][place * c2 + c - c1] };
        // The sum is rounded to f32, as if it had been stored.
        x[at(b, p, c)] = f64::from((own + if case.shifted { f64::from(shift[b * channels + c]) } else { 0.0 }) as f32);
    }
    let zeros = |k: usize| vec![0.0; k];
    let mut r = Reference {
        y: zeros(x.len()),
        mean: zeros(n * case.groups),
        rstd: zeros(n * case.groups),
        dx: [zeros(n * pixels * c1), zeros(n * pixels * c2)],
        dweight: zeros(channels),
        dbias: zeros(channels),
        dshift: zeros(n * channels),
    };
    for b in 0..n {
        for g in 0..case.groups {
            let members = || each(1, pixels, width).map(move |(_, p, c)| (p, g * width + c));
            let count = (pixels * width) as f64;
            let mean = members().map(|(p, c)| x[at(b, p, c)]).sum::<f64>() / count;
            let var = members().map(|(p, c)| (x[at(b, p, c)] - mean).powi(2)).sum::<f64>() / count;
            let rstd = 1.0 / (var + 1e-5f32 as f64).sqrt();
            (r.mean[b * case.groups + g], r.rstd[b * case.groups + g]) = (mean, rstd);
            let mut sums = [0.0; 2];
            let mut terms = Vec::new();
            for (pixel, c) in members() {
                let (w, h) = (f64::from(weight[c]), (x[at(b, pixel, c)] - mean) * rstd);
                let z = w * h + f64::from(bias[c]);
                let sig = 1.0 / (1.0 + (-z).exp());
                let (act, slope) = if case.silu { (z * sig, sig * (1.0 + z * (1.0 - sig))) } else { (z, 1.0) };
                let keep = case.dropout.map_or(1.0, |p| f64::from(kept[at(b, pixel, c)]) / (1.0 - p));
                r.y[at(b, pixel, c)] = act * keep;
                let dz = dy[at(b, pixel, c)] * keep * slope;
                r.dweight[c] += dz * h;
                r.dbias[c] += dz;
                sums[0] += w * dz;
                sums[1] += w * dz * h;
                terms.push((pixel, c, w * dz, h));
            }
            for (p, c, wdz, h) in terms {
                let dx = rstd * (wdz - (sums[0] + h * sums[1]) / count);
                let place = b * pixels + p;
                *(if c < c1 { &mut r.dx[0][place * c1 + c] } else { &mut r.dx[1][place * c2 + c - c1] }) = dx;
                r.dshift[b * channels + c] += dx;
            }
        }
    }
    r
}

/// What dropout keeps: an element of normal-like numbers above the quantile, roughly, that belongs to the probability.
fn mask(case: &Case) -> Vec<u8> {
    let elements = case.images.batch * case.images.pixels() * (case.channels[0] + case.channels[1]);
    normal(elements, 9).iter().map(|x| u8::from(*x > -1.3)).collect()
}

fn each(n: usize, pixels: usize, channels: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..n).flat_map(move |b| (0..pixels).flat_map(move |p| (0..channels).map(move |c| (b, p, c))))
}

/// Runs both passes and holds them against the reference; returns y and dx for comparing runs.
fn check<T: Element>(case: &Case, pool: &dyn Pool, tolerance: f64) -> (Vec<T>, Vec<T>) {
    let (n, pixels, [c1, c2]) = (case.images.batch, case.images.pixels(), case.channels);
    let channels = c1 + c2;
    let input = |c: usize, seed| -> Vec<T> {
        as_type(&normal(n * pixels * c, seed).iter().map(|x| x + case.mean).collect::<Vec<_>>())
    };
    let (first, second) = (input(c1, 1), input(c2, 2));
    let (shift, weight, bias) = (normal(n * channels, 3), normal(channels, 4), normal(channels, 5));
    let dy: Vec<T> = as_type(&normal(n * pixels * channels, 6));
    let before = [as_type::<T>(&normal(n * pixels * c1, 7)), as_type(&normal(n * pixels * c2, 8))];
    let want = reference(case, [&as_f64(&first), &as_f64(&second)], &shift, &weight, &bias, &as_f64(&dy));

    let mut x = Source::new(&first, c1);
    if c2 > 0 {
        x = x.concat(&second, c2);
    }
    if case.shifted {
        x = x.shifted(&shift);
    }
    let kept = mask(case);
    let layer = GroupNorm {
        groups: case.groups,
        eps: 1e-5,
        weight: &weight,
        bias: &bias,
        silu: case.silu,
        dropout: case.dropout.map(|p| Dropout { p, kept: &kept }),
    };
    let mut y = vec![T::from_f32(f32::NAN); dy.len()];
    let (mut mean, mut rstd) = (vec![f32::NAN; n * case.groups], vec![f32::NAN; n * case.groups]);
    forward(pool, case.images, &x, &layer, &mut y, &mut mean, &mut rstd).unwrap();
    assert_close(&mean, &want.mean, 1e-6, "mean");
    assert_close(&rstd, &want.rstd, 1e-6, "rstd");
    assert_close(&y, &want.y, tolerance, "y");

    let [mut dx1, mut dx2] = before.clone();
    let nan = |n: usize| vec![f32::NAN; n];
    let (mut dweight, mut dbias, mut dshift) = (nan(channels), nan(channels), nan(n * channels));
    let gradients = Gradients {
        parts: [Target { data: &mut dx1, add: true }, Target { data: &mut dx2, add: false }],
        weight: &mut dweight,
        bias: &mut dbias,
        shift: Some(&mut dshift),
    };
    backward(pool, case.images, &x, &layer, (&mean, &rstd), &dy, gradients).unwrap();
    let added: Vec<f64> = want.dx[0].iter().zip(as_f64(&before[0])).map(|(dx, b)| dx + b).collect();
    // Where the mean is large, h inherits the mean's rounding: mean * 2^-24 / deviation.
    let tolerance = tolerance + f64::from(case.mean) * 1e-7;
    assert_close(&dx1, &added, tolerance, "dx, added");
    assert_close(&dx2, &want.dx[1], tolerance, "dx, written");
    assert_close(&dweight, &want.dweight, tolerance, "dweight");
    assert_close(&dbias, &want.dbias, tolerance, "dbias");
    let scale = want.dx.iter().flatten().fold(0.0f64, |m, x| m.max(x.abs())) * (pixels as f64).sqrt();
    let worst = as_f64(&dshift).iter().zip(&want.dshift).fold(0.0f64, |m, (g, w)| m.max((g - w).abs()));
    assert!(worst <= tolerance * scale, "dshift: {worst} of {scale}");
    (y, [dx1, dx2].concat())
}

fn cases() -> Vec<Case> {
    let images = |batch, height, width| Images { batch, height, width };
    let mask = Some(0.1);
    let case = |images, channels, groups, silu, dropout, shifted, mean| Case {
        images,
        channels,
        groups,
        silu,
        dropout,
        shifted,
        mean,
    };
    vec![
        case(images(2, 8, 8), [64, 0], 32, true, None, false, 0.0),
        case(images(1, 5, 7), [16, 0], 16, true, mask, true, 0.5),
        case(images(1, 33, 31), [48, 0], 24, false, None, true, 0.0),
        case(images(3, 5, 7), [96, 0], 32, true, mask, false, 3.0),
        case(images(2, 9, 4), [128, 64], 32, true, None, true, 0.0),
        case(images(1, 16, 16), [256, 128], 32, true, mask, false, 0.0),
        case(images(2, 4, 4), [512, 0], 32, true, mask, true, 0.0),
        case(images(1, 5, 7), [10, 11], 3, true, None, true, 0.0),
        case(images(2, 1, 1), [24, 8], 4, false, mask, false, 0.0),
    ]
}

#[test]
fn float32_agrees_with_f64_on_every_instruction_set() {
    for isa in ALL_ISAS {
        with_isa(isa, || cases().iter().for_each(|case| drop(check::<f32>(case, &Serial, 3e-6))));
    }
}

#[test]
fn bfloat16_agrees_to_its_rounding() {
    for case in cases().iter().filter(|case| case.mean < 1.0) {
        check::<bf16>(case, &Scoped(2), 5e-3);
    }
}

#[test]
fn results_do_not_depend_on_threads() {
    with_isa(Isa::Avx512, || {
        for case in cases() {
            let one = check::<f32>(&case, &Serial, 3e-6);
            for threads in [2, 3, 5] {
                assert!(one == check::<f32>(&case, &Scoped(threads), 3e-6), "{threads} threads");
            }
        }
    });
}

#[test]
fn statistics_hold_when_the_mean_dwarfs_the_spread() {
    let images = Images { batch: 1, height: 64, width: 64 };
    for mean in [1e3, 1e5] {
        let case = Case { images, channels: [64, 0], groups: 32, silu: false, dropout: None, shifted: false, mean };
        check::<f32>(&case, &Scoped(2), 2e-2 * f64::from(mean) / 1e5 + 1e-5);
    }
}

#[test]
fn misfits_are_errors() {
    let images = Images { batch: 1, height: 2, width: 2 };
    let (x, w) = (vec![0.0f32; 24], vec![1.0f32; 6]);
    let mut y = x.clone();
    let (mut mean, mut rstd) = (vec![0.0; 4], vec![0.0; 4]);
    let kept = [1; 24];
    let mut try_with = |groups, p, weight: &[f32], elements| {
        let dropout = Some(Dropout { p, kept: &kept[..elements] });
        let layer = GroupNorm { groups, eps: 1e-5, weight, bias: &w, silu: true, dropout };
        forward(&Serial, images, &Source::new(&x, 6), &layer, &mut y, &mut mean[..groups], &mut rstd[..groups])
    };
    assert!(try_with(3, 0.1, &w, 24).is_ok());
    assert!(try_with(4, 0.1, &w, 24).is_err());
    assert!(try_with(0, 0.1, &w, 24).is_err());
    assert!(try_with(3, 1.0, &w, 24).is_err());
    assert!(try_with(3, f64::NAN, &w, 24).is_err());
    assert!(try_with(3, 0.1, &w[..5], 24).is_err());
    assert!(try_with(3, 0.1, &w, 23).is_err());
}
