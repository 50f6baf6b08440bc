//! Least squares by conjugate gradients that carry along what is left of the measurement, not of the normal equations (CGLS,
//! Björck 1996, Numerical Methods for Least Squares Problems, section 7.4). In float32 that makes the difference: K'K u rounds
//! at the size of what is seen, and once what is hardly seen has that size, the residual of the normal equations says nothing of
//! it. It costs as many products with K and K'.

use tch::{Device, Kind, Tensor};

use super::cg::{each, inner, numbers, start, Limits, Matrix, Pulse};
use crate::error::{Error, Result};

/// What is left of a residual when float32 ends, with nothing lost that is hardly seen.
const FINEST: f64 = 1e-7;

/// min |r - M u|^2 + u' T u over u, of each image.
pub struct Least<'a> {
    /// M u.
    pub seen: &'a dyn Fn(&Tensor) -> Result<Tensor>,
    /// M' r.
    pub back: &'a dyn Fn(&Tensor) -> Result<Tensor>,
    /// T u.
    pub stiff: &'a dyn Fn(&Tensor) -> Result<Tensor>,
}

impl Least<'_> {
    /// (M'M + T) u.
    pub fn times(&self, u: &Tensor) -> Result<Tensor> {
        Ok((self.back)(&(self.seen)(u)?)?.f_add(&(self.stiff)(u)?)?)
    }

    /// u, in fewer steps the nearer `inverse` is to that of A = M'M + T.
    ///
    /// An image is done where the root of e' A e / sigma^2 of its error e is `deviations`: standard deviations, where r is off by
    /// noise of `sigma`, one number or one for each image. That is known some steps later: it was as much as those have taken from
    /// it (Hestenes and Stiefel 1952, theorem 6:1). In float32 there are stretches that take next to nothing, the longer the
    /// later. With 0 deviations the limits alone end it.
    pub fn solve(
        &self,
        inverse: &mut Matrix,
        r: &Tensor,
        sigma: &Tensor,
        deviations: f64,
        limits: Limits,
    ) -> Result<Tensor> {
        let enough = squares_of(&sigma.f_mul_scalar(deviations)?, r.size()[0])?;
        let tolerance = if deviations > 0.0 { FINEST } else { limits.tolerance };
        let mut residual = (self.back)(r)?;
        let mut rest = r.f_detach_copy()?;
        let mut u = residual.f_zeros_like()?;
        let mut stiff_u = residual.f_zeros_like()?;
        let (mut direction, mut squares) = start(inverse, &residual)?;
        let goals: Vec<f64> = squares.iter().map(|square| square * tolerance * tolerance).collect();
        let mut taken = vec![Vec::new(); squares.len()];
        let mut pulse = Pulse::new(limits.watch);
        for iteration in 0..limits.iterations {
            pulse.beat()?;
            let late = (iteration / 4).max(4);
            let little = |i: usize| iteration >= late && taken[i][iteration - late..].iter().sum::<f64>() <= enough[i];
            let open = |i: usize| squares[i] > goals[i] && !little(i);
            let open: Vec<bool> = (0..squares.len()).map(open).collect();
            if !open.iter().any(|open| *open) {
                break;
            }
            let (seen, stiff) = ((self.seen)(&direction)?, (self.stiff)(&direction)?);
            let curvature: Vec<f64> =
                inner(&seen, &seen)?.iter().zip(inner(&direction, &stiff)?).map(|(seen, stiff)| seen + stiff).collect();
            let steps = each(&open, |i| if curvature[i] > 0.0 { squares[i] / curvature[i] } else { 0.0 });
            for (i, step) in steps.iter().enumerate() {
                taken[i].push(step * squares[i]);
            }
            let steps = numbers(&steps, r)?;
            let _ = u.f_add_(&direction.f_mul(&steps)?)?;
            let _ = rest.f_sub_(&seen.f_mul(&steps)?)?;
            let _ = stiff_u.f_add_(&stiff.f_mul(&steps)?)?;
            residual = (self.back)(&rest)?.f_sub(&stiff_u)?;
            let turned = inverse(&residual)?;
            let next = inner(&residual, &turned)?;
            // one that grows so much is rounding, and no direction follows from it
            let turn = |i: usize| if next[i] < 1e4 * squares[i] { next[i] / squares[i] } else { 0.0 };
            let turns = numbers(&each(&open, turn), r)?;
            direction = turned.f_add(&direction.f_mul(&turns)?)?;
            for (i, open) in open.iter().enumerate() {
                // no curvature left in this dtype: what remains cannot be solved
                squares[i] = if *open && curvature[i] > 0.0 { next[i] } else { 0.0 };
            }
        }
        Ok(u)
    }
}

/// The square for each of so many images, of one number or one for each.
fn squares_of(values: &Tensor, images: i64) -> Result<Vec<f64>> {
    let all = values.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?.f_reshape([-1])?.f_square()?;
    Vec::try_from(&all.f_expand([images], false)?.f_contiguous()?).map_err(Error::from)
}
