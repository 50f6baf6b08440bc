//! The optimiser's step in one pass over flat buffers, and the gradient's norm.

use crate::error::{check_len, Error, Result};
use crate::pool::scratch::filled;
use crate::pool::split::Split;
use crate::pool::{Pool, PIECE};
use crate::simd::element::{load, store};
use crate::simd::{dispatch, Kernel, Simd, LANES};

/// AdamW (Loshchilov and Hutter 2019) at its `step`-th step, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    pub learning_rate: f64,
    pub betas: (f64, f64),
    pub eps: f64,
    pub weight_decay: f64,
    pub step: u64,
}

/// What a step changes: the weights, and the running means of them and of their gradients. All buffers have the length of
/// `weights`.
pub struct Moments<'a> {
    pub weights: &'a mut [f32],
    /// Running mean of the gradient.
    pub first: &'a mut [f32],
    /// Running mean of its square.
    pub second: &'a mut [f32],
    /// Averaged weights and their decay: shadow = decay * shadow + (1 - decay) * weights, with the new weights.
    pub ema: Option<(f64, &'a mut [f32])>,
}

/// One step with the gradient `scale * gradient` (unscaling and clipping in one factor).
///
/// The operations are those of `torch.optim.AdamW` and of `shadow.mul_(decay).add_(weights, alpha=1 - decay)`, in their
/// order; scalars are computed in f64 and rounded once.
///
/// # Errors
/// When lengths differ or `step` is 0.
pub fn step(pool: &dyn Pool, adamw: &AdamW, scale: f32, gradient: &[f32], moments: Moments) -> Result {
    let n = moments.weights.len();
    check_len("gradient", gradient.len(), n)?;
    check_len("first", moments.first.len(), n)?;
    check_len("second", moments.second.len(), n)?;
    if let Some((_, shadow)) = &moments.ema {
        check_len("ema", shadow.len(), n)?;
    }
    if adamw.step == 0 {
        return Err(Error::misfit("step is 0; steps are counted from 1"));
    }
    let factors = Factors::new(adamw, scale, moments.ema.as_ref().map_or(0.0, |(decay, _)| *decay));
    let pieces = n.div_ceil(PIECE);
    let end = |i: usize| (i + 1) * PIECE;
    let weights = Split::new(moments.weights, pieces, end);
    let first = Split::new(moments.first, pieces, end);
    let second = Split::new(moments.second, pieces, end);
    let shadow = moments.ema.map(|(_, shadow)| Split::new(shadow, pieces, end));
    pool.run(pieces, &|i| {
        dispatch(Piece {
            factors,
            gradient: &gradient[i * PIECE..n.min((i + 1) * PIECE)],
            weights: weights.take(i),
            first: first.take(i),
            second: second.take(i),
            shadow: shadow.as_ref().map(|shadow| shadow.take(i)),
        });
    })
}

/// The step's scalars as the arithmetic takes them.
#[derive(Clone, Copy)]
struct Factors {
    scale: f32,
    keep: f32,
    first: f32,
    second: [f32; 2],
    root: f32,
    eps: f32,
    size: f32,
    decay: [f32; 2],
}

impl Factors {
    fn new(adamw: &AdamW, scale: f32, decay: f64) -> Self {
        let (b1, b2) = adamw.betas;
        let corrections = [b1, b2].map(|b| 1.0 - b.powf(adamw.step as f64));
        Factors {
            scale,
            keep: (1.0 - adamw.learning_rate * adamw.weight_decay) as f32,
            first: (1.0 - b1) as f32,
            second: [b2 as f32, (1.0 - b2) as f32],
            root: corrections[1].sqrt() as f32,
            eps: adamw.eps as f32,
            size: (-adamw.learning_rate / corrections[0]) as f32,
            decay: [decay as f32, (1.0 - decay) as f32],
        }
    }
}

struct Piece<'a> {
    factors: Factors,
    gradient: &'a [f32],
    weights: &'a mut [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
    shadow: Option<&'a mut [f32]>,
}

impl Kernel for Piece<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let f = self.factors;
        for lo in (0..self.weights.len()).step_by(LANES) {
            let own = lo..self.weights.len().min(lo + LANES);
            let (weights, first, second) =
                (&mut self.weights[own.clone()], &mut self.first[own.clone()], &mut self.second[own.clone()]);
            let g = s.mul(load(s, &self.gradient[own.clone()]), s.splat(f.scale));
            let m = load(s, first);
            let m = s.fma(s.splat(f.first), s.sub(g, m), m);
            let v = s.mul(load(s, second), s.splat(f.second[0]));
            let v = s.fma(s.mul(s.splat(f.second[1]), g), g, v);
            let denominator = s.add(s.div(s.sqrt(v), s.splat(f.root)), s.splat(f.eps));
            let w = s.mul(load(s, weights), s.splat(f.keep));
            let w = s.add(w, s.div(s.mul(s.splat(f.size), m), denominator));
            store(s, first, m);
            store(s, second, v);
            store(s, weights, w);
            if let Some(shadow) = self.shadow.as_mut().map(|shadow| &mut shadow[own]) {
                let kept = s.mul(load(s, shadow), s.splat(f.decay[0]));
                store(s, shadow, s.fma(w, s.splat(f.decay[1]), kept));
            }
        }
    }
}

/// The sum of squares in f64, the same for any number of threads; infinite or NaN exactly if some element is, for no sum
/// of finite f32 squares overflows f64.
///
/// # Errors
/// When the pool fails.
pub fn sum_of_squares(pool: &dyn Pool, x: &[f32]) -> Result<f64> {
    let pieces = x.len().div_ceil(PIECE);
    let mut sums = filled(0.0, pieces)?;
    let places = Split::new(&mut sums, pieces, |i| i + 1);
    pool.run(pieces, &|i| {
        let piece = &x[i * PIECE..x.len().min((i + 1) * PIECE)];
        places.take(i).iter_mut().for_each(|sum| *sum = dispatch(Squares(piece)));
    })?;
    drop(places);
    Ok(sums.iter().sum())
}

struct Squares<'a>(&'a [f32]);

impl Kernel for Squares<'_> {
    type Out = f64;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> f64 {
        let mut sums = [0.0f64; 2 * LANES];
        let mut blocks = self.0.chunks_exact(2 * LANES);
        for block in blocks.by_ref() {
            for (sum, &x) in sums.iter_mut().zip(block) {
                *sum += f64::from(x) * f64::from(x);
            }
        }
        let rest: f64 = blocks.remainder().iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        sums.iter().sum::<f64>() + rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{Scoped, Serial};
    use crate::testing::{as_f64, assert_close, normal, with_isa, ALL_ISAS};

    /// Several steps in f64 from the paper's formulas.
    fn reference(adamw: AdamW, steps: u64, scale: f64, g: &[f32], w: &mut [f64], shadow: &mut [f64], decay: f64) {
        let (b1, b2) = adamw.betas;
        let (mut m, mut v) = (vec![0.0; w.len()], vec![0.0; w.len()]);
        for t in 1..=steps as i32 {
            for i in 0..w.len() {
                let g = scale * f64::from(g[i]) / f64::from(t);
                m[i] = b1 * m[i] + (1.0 - b1) * g;
                v[i] = b2 * v[i] + (1.0 - b2) * g * g;
                w[i] -= adamw.learning_rate * adamw.weight_decay * w[i];
                let (m_hat, v_hat) = (m[i] / (1.0 - b1.powi(t)), v[i] / (1.0 - b2.powi(t)));
                w[i] -= adamw.learning_rate * m_hat / (v_hat.sqrt() + adamw.eps);
                shadow[i] = decay * shadow[i] + (1.0 - decay) * w[i];
            }
        }
    }

    fn run(pool: &dyn Pool, n: usize) -> [Vec<f32>; 2] {
        let (g, start) = (normal(n, 1), normal(n, 2));
        let adamw = AdamW { learning_rate: 1e-2, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 1e-2, step: 0 };
        let (mut w, mut shadow) = (start.clone(), start.clone());
        let (mut first, mut second) = (vec![0.0; n], vec![0.0; n]);
        for t in 1..=5 {
            let g: Vec<f32> = g.iter().map(|g| g / t as f32).collect();
            let moments =
                Moments { weights: &mut w, first: &mut first, second: &mut second, ema: Some((0.9, &mut shadow)) };
            step(pool, &AdamW { step: t, ..adamw }, 0.5, &g, moments).unwrap();
        }
        let (mut want, mut want_shadow) = (as_f64(&start), as_f64(&start));
        reference(adamw, 5, 0.5, &g, &mut want, &mut want_shadow, 0.9);
        assert_close(&w, &want, 3e-7, "weights");
        assert_close(&shadow, &want_shadow, 3e-7, "shadow");
        [w, shadow]
    }

    #[test]
    fn steps_agree_with_the_formulas_for_any_threads() {
        for n in [1, 15, 16, 1000, 3 * PIECE + 5] {
            for isa in ALL_ISAS {
                with_isa(isa, || assert!(run(&Serial, n) == run(&Scoped(3), n)));
            }
        }
    }

    #[test]
    fn the_norm_is_exact_to_f64_and_sees_what_is_not_finite() {
        let mut x = normal(2 * PIECE + 77, 3);
        let want: f64 = x.iter().map(|&x| f64::from(x).powi(2)).sum();
        let got = sum_of_squares(&Serial, &x).unwrap();
        assert!((got - want).abs() <= 1e-12 * want);
        assert_eq!(got, sum_of_squares(&Scoped(4), &x).unwrap());
        assert_eq!(sum_of_squares(&Serial, &[]).unwrap(), 0.0);
        assert!(sum_of_squares(&Serial, &[f32::MAX; 40]).unwrap().is_finite());
        for bad in [f32::NAN, f32::INFINITY] {
            x[PIECE + 3] = bad;
            assert!(!sum_of_squares(&Serial, &x).unwrap().is_finite());
        }
    }

    #[test]
    fn misfits_are_errors() {
        let adamw = AdamW { learning_rate: 1.0, betas: (0.9, 0.99), eps: 1e-8, weight_decay: 0.0, step: 0 };
        let (mut w, mut m, mut v) = ([0.0; 3], [0.0; 3], [0.0; 3]);
        let mut attempt = |step_number, g: &[f32]| {
            let moments = Moments { weights: &mut w, first: &mut m, second: &mut v, ema: None };
            step(&Serial, &AdamW { step: step_number, ..adamw }, 1.0, g, moments)
        };
        assert!(attempt(0, &[0.0; 3]).is_err());
        assert!(attempt(1, &[0.0; 2]).is_err());
        assert!(attempt(1, &[0.0; 3]).is_ok());
    }
}
