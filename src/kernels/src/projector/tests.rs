use super::*;
use crate::pool::{Scoped, Serial};
use crate::testing::{with_isa, ALL_ISAS};
use std::f64::consts::PI;

fn course(angles: usize, range: f64) -> Projector {
    let angles: Vec<f64> = (0..angles).map(|i| range * i as f64 / angles as f64).collect();
    Projector::new(64, 64, 92, &angles, Beam::Parallel).expect("a projector")
}

fn fan() -> Projector {
    let angles: Vec<f64> = (0..13).map(|i| 0.5 * f64::from(i)).collect();
    Projector::new(30, 41, 80, &angles, Beam::Fan { source: 120.0, detector: 40.0 }).expect("a projector")
}

fn noise<T: Real>(n: usize, seed: u64) -> Vec<T> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64 - 0.5
    };
    (0..n).map(|_| T::from_f64(next())).collect()
}

fn forward<T: Real>(p: &Projector, pool: &dyn Pool, images: usize, x: &[T]) -> Vec<T> {
    let mut y = vec![T::default(); images * p.rays()];
    p.forward(pool, images, x, &mut y).expect("sinograms");
    y
}

fn adjoint<T: Real>(p: &Projector, pool: &dyn Pool, images: usize, y: &[T]) -> Vec<T> {
    let mut x = vec![T::default(); images * p.pixels()];
    p.adjoint(pool, images, y, &mut x).expect("images");
    x
}

fn dot<T: Real + Into<f64>>(a: &[T], b: &[T]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| a.into() * b.into()).sum()
}

#[test]
fn the_matrix_has_the_known_number_of_weights_and_sums() {
    let p = course(60, PI);
    let (mut count, mut sums) = (0, vec![0.0; p.rays()]);
    p.entries(1e-5, |ray, _, weight| {
        count += 1;
        sums[ray] += weight;
    })
    .expect("entries");
    // ASTRA stores 442,360, zeros among them, and 434,186 above 1e-5
    assert!((434_180..434_192).contains(&count), "{count}");
    assert!((sums.iter().sum::<f64>() / 60.0 - 4096.11).abs() < 0.01);
    assert!((sums.iter().fold(0.0, |a: f64, b| a.max(*b)) - 89.510).abs() < 1e-3);
}

#[test]
fn one_pixel_casts_the_known_shadows() {
    let p = course(4, PI);
    let mut x = vec![0.0; 64 * 64];
    x[20 * 64 + 30] = 1.0;
    let y = forward::<f64>(&p, &Serial, 1, &x);
    let mut want = vec![0.0; 4 * 92];
    for (view, bin, value) in
        [(0, 44, 1.0), (1, 52, 0.2721), (1, 53, 0.5564), (2, 57, 1.0), (3, 54, 0.0294), (3, 55, 0.7990)]
    {
        want[view * 92 + bin] = value;
    }
    let error = y.iter().zip(&want).fold(0.0, |m: f64, (a, b)| m.max((a - b).abs()));
    assert!(error < 1e-4, "{error}");
}

#[test]
fn both_directions_are_the_matrix() {
    for p in [course(7, PI), fan()] {
        let (x, y) = (noise::<f64>(p.pixels(), 1), noise::<f64>(p.rays(), 2));
        let (mut kx, mut ky) = (vec![0.0; p.rays()], vec![0.0; p.pixels()]);
        p.entries(0.0, |ray, pixel, weight| {
            kx[ray] += weight * x[pixel];
            ky[pixel] += weight * y[ray];
        })
        .expect("entries");
        let close = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-10);
        assert!(close(&forward(&p, &Serial, 1, &x), &kx));
        assert!(close(&adjoint(&p, &Serial, 1, &y), &ky));
    }
}

#[test]
fn the_adjoint_is_exact_for_every_instruction_set() {
    fn mismatch<T: Real + Into<f64>>(p: &Projector, images: usize) -> f64 {
        let (x, y) = (noise::<T>(images * p.pixels(), 1), noise::<T>(images * p.rays(), 2));
        let (kx, ky) = (forward(p, &Serial, images, &x), adjoint(p, &Serial, images, &y));
        (dot(&kx, &y) - dot(&x, &ky)).abs() / (dot(&kx, &kx) * dot(&y, &y)).sqrt()
    }
    for p in [course(11, PI), fan()] {
        for isa in ALL_ISAS {
            with_isa(isa, || {
                for images in [1, 3, 11] {
                    assert!(mismatch::<f64>(&p, images) < 1e-14);
                    assert!(mismatch::<f32>(&p, images) < 1e-7);
                }
            });
        }
    }
}

#[test]
fn bits_depend_neither_on_threads_nor_on_the_batch() {
    fn check<T: Real + PartialEq + std::fmt::Debug>(p: &Projector) {
        let images = 19;
        let (x, y) = (noise::<T>(images * p.pixels(), 1), noise::<T>(images * p.rays(), 2));
        let (kx, ky) = (forward(p, &Serial, images, &x), adjoint(p, &Serial, images, &y));
        assert_eq!(forward(p, &Scoped(3), images, &x), kx);
        assert_eq!(adjoint(p, &Scoped(3), images, &y), ky);
        for few in [1, 5] {
            let parts = |numbers: usize, all: &[T]| all.chunks(few * numbers).map(<[T]>::to_vec).collect::<Vec<_>>();
            for (x, kx) in parts(p.pixels(), &x).iter().zip(parts(p.rays(), &kx)) {
                assert_eq!(forward(p, &Scoped(2), x.len() / p.pixels(), x), kx);
            }
            for (y, ky) in parts(p.rays(), &y).iter().zip(parts(p.pixels(), &ky)) {
                assert_eq!(adjoint(p, &Scoped(2), y.len() / p.rays(), y), ky);
            }
        }
    }
    for isa in ALL_ISAS {
        with_isa(isa, || {
            check::<f32>(&course(9, PI));
            check::<f64>(&fan());
        });
    }
}

#[test]
fn geometries_that_make_no_sense_are_refused() {
    let fan = |source, detector| Projector::new(64, 64, 92, &[0.0], Beam::Fan { source, detector });
    for wrong in [
        Projector::new(0, 64, 92, &[0.0], Beam::Parallel),
        Projector::new(64, 64, 0, &[0.0], Beam::Parallel),
        Projector::new(64, 64, 92, &[], Beam::Parallel),
        Projector::new(64, 64, 92, &[0.0, f64::NAN], Beam::Parallel),
        fan(20.0, 500.0),
        fan(f64::NAN, 500.0),
        fan(1800.0, -1.0),
    ] {
        wrong.map(drop).expect_err("an error");
    }
}
