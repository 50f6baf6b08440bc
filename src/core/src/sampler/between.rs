//! Images between two others, at a level of noise where both are known.

use tch::{Kind, Tensor};

use crate::diffusion::process::Mixing;
use crate::diffusion::schedule::Level;
use crate::error::{ensure, Result};

/// An image, and what it is at a level of noise.
pub struct Known<'a> {
    pub clean: &'a Tensor,
    pub noisy: &'a Tensor,
}

/// `count` images at `level` from `a` to `b`: their clean parts mixed in a straight line, their noise along a great circle
/// (Shoemake 1985), so that it keeps its strength.
pub fn between(a: &Known, b: &Known, level: Level, count: i64) -> Result<Tensor> {
    let (left, right) = (a.clean.size(), b.clean.size());
    ensure!(left == right, Value, "both images must have the same shape, got {left:?} and {right:?}");
    let mixing = Mixing::of(level)?;
    let (eps_a, eps_b) = (mixing.eps(a.noisy, a.clean)?, mixing.eps(b.noisy, b.clean)?);
    let inner = |x: &Tensor, y: &Tensor| x.f_mul(y)?.f_sum(Kind::Double)?.f_double_value(&[]);
    let cosine = inner(&eps_a, &eps_b)? / (inner(&eps_a, &eps_a)? * inner(&eps_b, &eps_b)?).sqrt();
    let images = (0..count).map(|index| {
        let share = if count > 1 { index as f64 / (count - 1) as f64 } else { 0.5 };
        let (of_a, of_b) = great_circle(cosine, share);
        let eps = eps_a.f_mul_scalar(of_a)?.f_add(&eps_b.f_mul_scalar(of_b)?)?;
        let x0 = a.clean.f_mul_scalar(1.0 - share)?.f_add(&b.clean.f_mul_scalar(share)?)?;
        mixing.noised(&x0, &eps)
    });
    Ok(Tensor::f_cat(&images.collect::<Result<Vec<_>>>()?, 0)?)
}

/// Weights of two directions on the way from one to the other.
fn great_circle(cosine: f64, share: f64) -> (f64, f64) {
    let angle = cosine.clamp(-1.0, 1.0).acos();
    let whole = angle.sin();
    // parallel ones, and those of no length, span no circle
    if whole.is_nan() || whole <= 1e-6 {
        return (1.0 - share, share);
    }
    (((1.0 - share) * angle).sin() / whole, (share * angle).sin() / whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn the_ends_are_the_two_images_and_the_middle_is_as_noisy() {
        let level = Level { signal: 0.6, spread: 0.8 };
        let mixing = Mixing::of(level).expect("numbers");
        let draw = || Tensor::randn([1, 1, 32, 32], (Kind::Float, Device::Cpu));
        let (clean, eps) = ([draw(), draw()], [draw(), draw()]);
        let noisy = [0, 1].map(|k| mixing.noised(&clean[k], &eps[k]).expect("x_t"));
        let known = |k: usize| Known { clean: &clean[k], noisy: &noisy[k] };
        let out = between(&known(0), &known(1), level, 5).expect("images");
        for (index, noisy) in [(0, &noisy[0]), (4, &noisy[1])] {
            assert!(f64::try_from((out.narrow(0, index, 1) - noisy).abs().max()).expect("a number") < 1e-5);
        }
        let middle = mixing.eps(&out.narrow(0, 2, 1), &((&clean[0] + &clean[1]) / 2.0)).expect("noise");
        assert!((middle.std(false).double_value(&[]) - 1.0).abs() < 0.1);
    }

    #[test]
    fn what_spans_no_circle_is_mixed_straight() {
        for cosine in [1.0, -1.0, f64::NAN] {
            assert_eq!(great_circle(cosine, 0.25), (0.75, 0.25));
        }
    }
}
