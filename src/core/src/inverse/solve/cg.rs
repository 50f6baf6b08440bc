//! Conjugate gradients (Hestenes and Stiefel 1952) for many images at once, each with its own steps and its own end.

use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};

use crate::error::{ensure, Error, Result};
use crate::libtorch::{slice, Plain};

/// When an image is solved, and who may end the work before.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Size of the residual as a share of that of the right-hand side.
    pub tolerance: f64,
    pub iterations: usize,
    pub watch: Watch,
}

/// Asked now and then during long work: an error, such as the user's interrupt, ends it.
pub type Watch = fn() -> Result<()>;

/// Asks at a pace that work does not notice.
pub struct Pulse {
    watch: Watch,
    last: Instant,
}

impl Pulse {
    const EVERY: Duration = Duration::from_millis(50);

    pub fn new(watch: Watch) -> Self {
        Self { watch, last: Instant::now() }
    }

    pub fn beat(&mut self) -> Result<()> {
        if self.last.elapsed() < Self::EVERY {
            return Ok(());
        }
        self.last = Instant::now();
        (self.watch)()
    }
}

impl Limits {
    /// As far as the dtype of `x` carries.
    pub fn of(x: &Tensor, watch: Watch) -> Self {
        match x.kind() {
            Kind::Double => Self { tolerance: 1e-12, iterations: 2000, watch },
            _ => Self { tolerance: 1e-6, iterations: 1000, watch },
        }
    }
}

/// A symmetric positive (semi)definite matrix, which treats every image for itself.
pub type Matrix<'a> = dyn FnMut(&Tensor) -> Result<Tensor> + 'a;

/// x with A x = b. Inner products are added up in float64, image by image: the bits of a solution do not depend on the batch
/// or on threads.
pub fn solve(a: &mut Matrix, b: &Tensor, limits: Limits) -> Result<Tensor> {
    solve_near(a, &mut |r| Ok(r.shallow_clone()), b, limits)
}

/// The same, in fewer steps the nearer `inverse` is to that of A. The residual r is measured by r' inverse r.
pub fn solve_near(a: &mut Matrix, inverse: &mut Matrix, b: &Tensor, limits: Limits) -> Result<Tensor> {
    let mut x = b.f_zeros_like()?;
    let mut residual = b.f_detach_copy()?;
    let (mut direction, mut squares) = start(inverse, &residual)?;
    let goals: Vec<f64> = squares.iter().map(|square| square * limits.tolerance * limits.tolerance).collect();
    let mut pulse = Pulse::new(limits.watch);
    for _ in 0..limits.iterations {
        pulse.beat()?;
        let open: Vec<bool> = squares.iter().zip(&goals).map(|(square, goal)| *square > *goal).collect();
        if !open.iter().any(|open| *open) {
            break;
        }
        let image = a(&direction)?;
        let curvature = inner(&direction, &image)?;
        let steps = each(&open, |i| if curvature[i] > 0.0 { squares[i] / curvature[i] } else { 0.0 });
        let steps = numbers(&steps, b)?;
        let _ = x.f_add_(&direction.f_mul(&steps)?)?;
        let _ = residual.f_sub_(&image.f_mul(&steps)?)?;
        let turned = inverse(&residual)?;
        let next = inner(&residual, &turned)?;
        let turns = numbers(&each(&open, |i| next[i] / squares[i]), b)?;
        direction = turned.f_add(&direction.f_mul(&turns)?)?;
        for (i, open) in open.iter().enumerate() {
            // no curvature left in this dtype: what remains cannot be solved
            squares[i] = if *open && curvature[i] > 0.0 { next[i] } else { 0.0 };
        }
    }
    Ok(x)
}

/// The first direction, and the square of each image's residual.
pub(super) fn start(inverse: &mut Matrix, residual: &Tensor) -> Result<(Tensor, Vec<f64>)> {
    let direction = inverse(residual)?.f_detach_copy()?;
    let squares = inner(residual, &direction)?;
    let finite = squares.iter().all(|square| square.is_finite());
    ensure!(
        finite,
        Value,
        "a system to solve holds NaN or infinity: sigma_y, sigma or gamma is too far from 1 for {:?}, or the model's answer \
         is not finite",
        residual.kind()
    );
    Ok((direction, squares))
}

/// A number for each image that is still open, 0 for the others.
pub(super) fn each(open: &[bool], value: impl Fn(usize) -> f64) -> Vec<f64> {
    open.iter().enumerate().map(|(i, open)| if *open { value(i) } else { 0.0 }).collect()
}

/// One number per image, (N, 1, 1, 1), in the dtype of `like`.
pub fn numbers(values: &[f64], like: &Tensor) -> Result<Tensor> {
    let column = Tensor::f_from_slice(values)?.f_view([-1, 1, 1, 1])?;
    Ok(column.f_to_kind(like.kind())?.f_to_device(like.device())?)
}

/// <a, b> of each image, in float64.
pub fn inner(a: &Tensor, b: &Tensor) -> Result<Vec<f64>> {
    if a.device() != Device::Cpu {
        let products = a.f_mul(b)?.f_flatten(1, -1)?.f_sum_dim_intlist([1i64].as_slice(), false, a.kind())?;
        let products = products.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?;
        return Vec::try_from(&products).map_err(Error::from);
    }
    match a.f_kind()? {
        Kind::Double => inner_of::<f64>(a, b),
        _ => inner_of::<f32>(a, b),
    }
}

fn inner_of<T: Plain + Into<f64>>(a: &Tensor, b: &Tensor) -> Result<Vec<f64>> {
    let size = (a.numel() / (a.size()[0].max(1) as usize)).max(1);
    let (a, b) = (a.f_contiguous()?, b.f_contiguous()?);
    let pairs = slice::<T>(&a)?.chunks_exact(size).zip(slice::<T>(&b)?.chunks_exact(size));
    Ok(pairs.map(|(a, b)| dot(a, b)).collect())
}

/// In eight sums, so that the processor can take eight at a time.
fn dot<T: Copy + Into<f64>>(a: &[T], b: &[T]) -> f64 {
    let mut sums = [0.0; 8];
    let (whole_a, whole_b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest = whole_a.remainder().iter().zip(whole_b.remainder()).map(|(a, b)| (*a).into() * (*b).into()).sum::<f64>();
    for (a, b) in whole_a.zip(whole_b) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += (*a).into() * (*b).into();
        }
    }
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(images: i64) -> (Tensor, Tensor) {
        tch::manual_seed(3);
        let root = Tensor::randn([30, 30], (Kind::Double, Device::Cpu));
        let a = root.matmul(&root.transpose(0, 1)) + Tensor::eye(30, (Kind::Double, Device::Cpu));
        let scales = Tensor::from_slice(&[1.0, 1e-3, 0.0, 50.0]).narrow(0, 0, images).view([images, 1, 1, 1]);
        (a, Tensor::randn([images, 1, 5, 6], (Kind::Double, Device::Cpu)) * scales)
    }

    fn solved(a: &Tensor, b: &Tensor) -> Tensor {
        let mut apply = |x: &Tensor| {
            let rows: Vec<Tensor> = (0..x.size()[0]).map(|i| a.mv(&x.get(i).view([30]))).collect();
            Ok(Tensor::stack(&rows, 0).view(x.size().as_slice()))
        };
        solve(&mut apply, b, Limits::of(b, || Ok(()))).expect("a solution")
    }

    #[test]
    fn every_image_is_solved_to_its_own_scale() {
        let (a, b) = system(4);
        let x = solved(&a, &b);
        for i in 0..4 {
            let want = a.inverse().mv(&b.get(i).view([30]));
            let error = (x.get(i).view([30]) - &want).norm() / want.norm().clamp_min(1e-300);
            assert!(f64::try_from(error).expect("a number") < 1e-9, "image {i}");
        }
    }

    #[test]
    fn near_the_inverse_few_steps_are_needed() {
        let b = Tensor::randn([2, 1, 5, 6], (Kind::Double, Device::Cpu));
        let slopes = Tensor::arange(30, (Kind::Double, Device::Cpu)).exp2().view([1, 1, 5, 6]);
        let mut steps = 0;
        let mut apply = |x: &Tensor| {
            steps += 1;
            Ok(x * &slopes + x.mean(Kind::Double))
        };
        let limits = Limits { tolerance: 1e-9, iterations: 12, watch: || Ok(()) };
        let b = b.narrow(0, 0, 1);
        let x = solve_near(&mut apply, &mut |r| Ok(r / &slopes), &b, limits).expect("a solution");
        let error = (&x * &slopes + x.mean(Kind::Double) - &b).abs().max();
        assert!(f64::try_from(error).expect("a number") < 1e-6 && steps <= 5, "{steps} steps");
    }

    #[test]
    fn long_work_is_ended_from_outside() {
        let b = Tensor::ones([1, 1, 2, 2], (Kind::Double, Device::Cpu));
        let watch: Watch = || Err(Error::Interrupted);
        let mut rounds = 0;
        let mut slow = |x: &Tensor| {
            rounds += 1;
            std::thread::sleep(Pulse::EVERY);
            Ok(x * Tensor::from_slice(&[1.0, 2.0, 3.0, 4.0]).view([1, 1, 2, 2]))
        };
        let out = solve(&mut slow, &b, Limits::of(&b, watch));
        assert!(matches!(out, Err(Error::Interrupted)) && rounds == 1);
    }

    #[test]
    fn bits_do_not_depend_on_the_batch() {
        let (a, b) = system(4);
        let all = solved(&a, &b);
        for i in 0..4 {
            assert_eq!(solved(&a, &b.narrow(0, i, 1)), all.narrow(0, i, 1));
        }
    }

    #[test]
    fn products_are_those_of_torch() {
        let (_, b) = system(4);
        let single = b.to_kind(Kind::Float);
        for (x, tolerance) in [(&b, 1e-13), (&single, 1e-6)] {
            for (i, got) in inner(x, x).expect("products").iter().enumerate() {
                let want = x.get(i as i64).square().sum(Kind::Double).double_value(&[]);
                assert!((got - want).abs() <= tolerance * want);
            }
        }
    }
}
