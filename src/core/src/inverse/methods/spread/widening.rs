//! Where a measurement shows that the network is further off than was known beforehand: what it says is then trusted less.

use tch::{Device, Kind, Tensor};

use crate::error::Result;
use crate::inverse::methods::problem::{squares, Problem};

/// Chance explains a misfit up to so many standard deviations above what it should be.
const SURPRISE: f64 = 2.0;
/// No variance is multiplied by more.
const MOST: f64 = 10.0;

/// What the variances of x0 about x0_hat are to be multiplied with for y to be as far from K x0_hat as it is, for each image,
/// (N, 1, 1, 1), float64, on the CPU: 1 where chance explains it.
///
/// |y - K x0_hat|^2 has the mean m sigma^2 + tr(K C K') and the variance 2 tr((K C K' + sigma^2)^2), with the traces of the
/// circulant matrix next to K'K. `variances`: those of Fourier modes, (H, W / 2 + 1) or (N, 1, H, W / 2 + 1), or one number that
/// broadcasts.
pub fn widening(problem: &Problem, variances: &Tensor, x0_hat: &Tensor) -> Result<Tensor> {
    let (squares, count) = squares(&problem.operator, problem.misfit(x0_hat)?)?;
    let noise = problem.sigma.f_to_device(Device::Cpu)?.f_square()?.f_view([-1, 1, 1, 1])?;
    let seen = problem.near()?.values().f_mul(variances)?;
    let partners = partners(x0_hat.size()[3])?.f_mul_scalar(x0_hat.size()[1] as f64)?;
    let trace = |of: &Tensor| of.f_mul(&partners)?.f_sum_dim_intlist([-2i64, -1].as_slice(), true, Kind::Double);
    let first = trace(&seen)?;
    // m eigenvalues with this sum have squares of no smaller sum, whatever K makes of modes that are averaged here
    let second = trace(&seen.f_square()?)?.f_maximum(&first.f_square()?.f_div_scalar(count)?)?;

    let excess = squares.f_view([-1, 1, 1, 1])?.f_sub(&noise.f_mul_scalar(count)?)?;
    let noisy = noise.f_square()?.f_mul_scalar(count)?.f_add(&noise.f_mul_scalar(2.0)?.f_mul(&first)?)?;
    let chance = noisy.f_add(&second)?.f_mul_scalar(2.0)?.f_sqrt()?.f_mul_scalar(SURPRISE)?;
    let surprising = excess.f_sub(&first)?.f_gt_tensor(&chance)?;
    let factor = excess.f_div(&first)?.f_clamp(1.0, MOST)?;
    Ok(factor.f_where_scalarother(&surprising, 1.0)?)
}

/// How many modes of the whole transform each column of a real one stands for, (W / 2 + 1,).
fn partners(width: i64) -> Result<Tensor> {
    let own = |column: i64| column == 0 || 2 * column == width;
    let partners: Vec<f64> = (0..=width / 2).map(|column| if own(column) { 1.0 } else { 2.0 }).collect();
    Ok(Tensor::f_from_slice(&partners)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inverse::operator::{Identity, Shape};
    use std::sync::Arc;

    /// Two images of 8 x 7 with a misfit of `size` everywhere, seen as they are with noise of 0.1.
    fn factors(sizes: [f64; 2], variance: f64) -> Vec<f64> {
        let shape = Shape::pictures(8, 7);
        let x0_hat = Tensor::zeros([2, 3, 8, 7], (Kind::Float, Device::Cpu));
        let y = &x0_hat + Tensor::from_slice(&sizes).to_kind(Kind::Float).view([2, 1, 1, 1]);
        let sigma = Tensor::full([2, 1, 1, 1], 0.1, (Kind::Double, Device::Cpu));
        let problem = Problem::new(Arc::new(Identity(shape)), &y, sigma, &x0_hat, || Ok(())).expect("a problem");
        let variances = Tensor::full([8, 4], variance, (Kind::Double, Device::Cpu));
        let found = widening(&problem, &variances, &x0_hat).expect("factors");
        Vec::try_from(found.view([-1])).expect("a line")
    }

    #[test]
    fn what_was_expected_is_left_alone_and_what_was_not_is_explained() {
        // 0.1^2 of noise and 0.3^2 of the denoiser's; 0.1^2 + 2.25 * 0.3^2 = 0.4609^2
        let found = factors([0.1f64.hypot(0.3), 0.1f64.hypot(0.45)], 0.09);
        assert!(found[0] == 1.0 && (found[1] - 2.25).abs() < 1e-5, "{found:?}");
    }

    #[test]
    fn too_small_a_misfit_and_numbers_that_are_none_change_nothing() {
        assert_eq!(factors([0.0, f64::NAN], 0.09), [1.0, 1.0]);
    }

    #[test]
    fn there_is_an_end_to_it() {
        assert_eq!(factors([30.0, 0.1], 1e-4), [MOST, 1.0]);
    }
}
