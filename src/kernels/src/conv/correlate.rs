//! Correlation of single-channel images with a small kernel, given as its taps.

use std::ops::{AddAssign, Mul, Range};

use crate::error::{check_len, Result};
use crate::pool::{self, split::Split, Pool};

/// Numbers that images are made of here.
pub trait Real: Copy + Default + Send + Sync + Mul<Output = Self> + AddAssign {}

impl Real for f32 {}
impl Real for f64 {}

/// One number of the kernel: what lies `down` and `right` of a pixel counts `weight` times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tap<T> {
    pub down: isize,
    pub right: isize,
    pub weight: T,
}

/// Height and width.
pub type Size = [usize; 2];

/// Writes y[i, j] = sum over taps of weight * x[i + down, j + right] for each image; beyond its edges x is zero.
///
/// The sum runs in the order of the taps, so that results do not depend on threads or on the number of images. With every
/// `down` and `right` negated, and the sizes exchanged, it is its own transpose.
///
/// # Errors
/// When a length does not fit.
pub fn correlate<T: Real>(pool: &dyn Pool, taps: &[Tap<T>], from: Size, x: &[T], to: Size, y: &mut [T]) -> Result {
    let (inside, outside) = (from[0] * from[1], to[0] * to[1]);
    let images = y.len().checked_div(outside).unwrap_or(0);
    check_len("y", y.len(), images * outside)?;
    check_len("x", x.len(), images * inside)?;
    let rows = images * to[0];
    let tasks = rows.min(4 * pool.threads());
    if tasks == 0 {
        return Ok(());
    }
    let end = |task: usize| (task + 1) * rows / tasks;
    let shares = Split::new(y, tasks, |task| end(task) * to[1]);
    pool::run(pool, tasks, |task| {
        let share = shares.take(task);
        for (row, y) in (task * rows / tasks..end(task)).zip(share.chunks_exact_mut(to[1])) {
            let image = &x[row / to[0] * inside..][..inside];
            y.fill(T::default());
            taps.iter().for_each(|tap| add(tap, image, from, row % to[0], y));
        }
        Ok(())
    })
}

/// What one tap adds to a row of the result.
fn add<T: Real>(tap: &Tap<T>, image: &[T], from: Size, row: usize, y: &mut [T]) {
    let Some(source) = row.checked_add_signed(tap.down).filter(|source| *source < from[0]) else { return };
    let Range { start, end } = reached(tap.right, from[1], y.len());
    if start >= end {
        return;
    }
    let first = source * from[1] + start.saturating_add_signed(tap.right);
    for (y, x) in y[start..end].iter_mut().zip(&image[first..]) {
        *y += tap.weight * *x;
    }
}

/// The columns of the result whose source lies within the image.
fn reached(right: isize, from: usize, to: usize) -> Range<usize> {
    let start = if right < 0 { right.unsigned_abs() } else { 0 };
    let end = from.saturating_add_signed(right.saturating_neg()).min(to);
    start..end
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{Scoped, Serial};

    fn numbers(count: usize) -> Vec<f64> {
        (0..count).map(|i| (i as f64 * 0.7).sin()).collect()
    }

    fn taps() -> Vec<Tap<f64>> {
        let places = [(0, 0), (-1, 2), (3, -2), (1, 1), (-9, 0), (0, 9)];
        places.iter().enumerate().map(|(i, &(down, right))| Tap { down, right, weight: i as f64 - 1.5 }).collect()
    }

    #[test]
    fn every_pixel_is_the_sum_over_its_taps() {
        let (from, to) = ([5, 7], [6, 4]);
        let x = numbers(2 * 35);
        let mut y = vec![f64::NAN; 2 * 24];
        correlate(&Serial, &taps(), from, &x, to, &mut y).expect("a correlation");
        for (k, y) in y.iter().enumerate() {
            let (image, i, j) = (k / 24, (k % 24 / 4) as isize, (k % 4) as isize);
            let inside = |i: isize, j: isize| (0..5).contains(&i) && (0..7).contains(&j);
            let at = |i: isize, j: isize| if inside(i, j) { x[image * 35 + (i * 7 + j) as usize] } else { 0.0 };
            let want: f64 = taps().iter().map(|tap| tap.weight * at(i + tap.down, j + tap.right)).sum();
            assert!((y - want).abs() < 1e-12, "{k}: {y}, not {want}");
        }
    }

    #[test]
    fn bits_do_not_depend_on_threads_or_images() {
        let (size, x) = ([9, 11], numbers(3 * 99));
        let (mut all, mut one) = (vec![0.0; 3 * 99], vec![0.0; 99]);
        correlate(&Scoped(3), &taps(), size, &x, size, &mut all).expect("a correlation");
        correlate(&Serial, &taps(), size, &x[99..198], size, &mut one).expect("a correlation");
        assert_eq!(all[99..198], one);
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        assert!(correlate(&Serial, &taps(), [2, 2], &[0.0; 5], [2, 2], &mut [0.0; 4]).is_err());
        assert!(correlate(&Serial, &taps(), [2, 2], &[0.0; 4], [2, 2], &mut [0.0; 5]).is_err());
        assert!(correlate(&Serial, &taps(), [0, 0], &[], [0, 0], &mut []).is_ok());
    }
}
