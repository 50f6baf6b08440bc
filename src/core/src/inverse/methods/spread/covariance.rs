//! Covariances of an estimate's error that Fourier modes are the eigenvectors of, once each pixel's error is measured by its own
//! standard deviation.

use tch::{Kind, Tensor};

use super::widening::widening;
use crate::error::Result;
use crate::inverse::methods::problem::Problem;
use crate::inverse::solve::cg::{inner, numbers};
use crate::inverse::solve::circulant::Circulant;
use crate::inverse::solve::least::Least;
use crate::inverse::solve::spectrum::{precise, Spectrum};

/// How many standard deviations, from the least to the largest of an image, a system is solved near.
const LEVELS: i64 = 3;

/// C = R S R, with S a circulant matrix and R the pixels' standard deviations, or 1.
pub struct Covariance {
    modes: Circulant,
    /// R, (N, C, H, W).
    deviations: Option<Tensor>,
}

impl Covariance {
    /// `modes`: variances of Fourier modes, (H, W / 2 + 1).
    pub fn new(modes: Tensor, deviations: Option<Tensor>) -> Self {
        Self { modes: Circulant::with(modes), deviations }
    }

    /// As wide as each image's measurement asks for.
    pub fn widened(self, problem: &Problem, x0_hat: &Tensor) -> Result<Self> {
        let modes = self.modes.values();
        let Some(deviations) = self.deviations else {
            return Ok(Self::new(modes.f_mul(&widening(problem, &modes, x0_hat)?)?, None));
        };
        let level = deviations.f_square()?.f_mean_dim([1i64, 2, 3].as_slice(), true, Kind::Float)?;
        let level = level.f_to_device(modes.device())?.f_to_kind(modes.kind())?;
        let factor = widening(problem, &modes.f_mul(&level)?, x0_hat)?.f_sqrt()?;
        let factor = factor.f_to_kind(deviations.kind())?.f_to_device(deviations.device())?;
        Ok(Self::new(modes, Some(deviations.f_mul(&factor)?)))
    }

    /// C K' (K C K' + sigma^2)^-1 r: R u, where (R K'K R + sigma^2 S^-1) u = R K' r. It may be off by
    /// `deviations` standard deviations of x0 given y in all directions together, with 0 as far as the problem's limits say.
    pub fn towards(&self, r: &Tensor, problem: &Problem, deviations: f64) -> Result<Tensor> {
        let operator = problem.operator.as_ref();
        let kind = precise(r);
        let [seen, known] =
            [problem.near()?, &self.modes].map(|modes| modes.values().f_to_device(r.device())?.f_to_kind(kind));
        let stiffness = problem.sigma.f_square()?.f_to_kind(kind)?.f_div(&known?)?;
        let near = Near::of(self.deviations.as_ref(), &seen?, &stiffness)?;
        let least = Least {
            seen: &|u| operator.apply(&self.scaled(u)?),
            back: &|r| self.scaled(&operator.adjoint(r)?),
            stiff: &|u| self.modes.times(u, &stiffness),
        };
        let grey = self.deviations.as_ref().map(|deviations| Grey::of(deviations, &least)).transpose()?;
        let near = |v: &Tensor| near.solved(v, &self.modes);
        let mut inverse = |v: &Tensor| match &grey {
            None => near(v),
            Some(grey) => grey.solved(v, near),
        };
        self.scaled(&least.solve(&mut inverse, r, &problem.sigma, deviations, problem.limits())?)
    }

    /// C^-1 v.
    pub fn over(&self, v: &Tensor) -> Result<Tensor> {
        let divided = |v: &Tensor| match &self.deviations {
            None => Ok(v.shallow_clone()),
            Some(deviations) => v.f_div(deviations),
        };
        Ok(divided(&self.modes.filter(&divided(v)?, &|variances| Ok(variances.f_reciprocal()?))?)?)
    }

    /// R S^(1/2) v: of white noise, noise with the covariance C.
    pub fn root_times(&self, v: &Tensor) -> Result<Tensor> {
        self.scaled(&self.modes.filter(v, &|variances| Ok(variances.f_sqrt()?))?)
    }

    /// R v.
    fn scaled(&self, v: &Tensor) -> Result<Tensor> {
        Ok(match &self.deviations {
            None => v.shallow_clone(),
            Some(deviations) => v.f_mul(deviations)?,
        })
    }
}

/// Next to (R K'K R + sigma^2 S^-1)^-1.
enum Near {
    /// R is 1: what this circulant matrix does to modes.
    Everywhere(Tensor),
    /// What it were with the same R everywhere, for some R from the least to the largest; each pixel takes from the two that are
    /// next to its own.
    Levels {
        /// Roots of the pixels' shares, which add up to 1, (N, levels, C, H, W).
        shares: Tensor,
        /// What the circulant matrices do to modes, (N, levels, 1, H, W / 2 + 1).
        factors: Tensor,
    },
}

impl Near {
    /// From what K'K does to modes and from sigma^2 S^-1.
    fn of(deviations: Option<&Tensor>, seen: &Tensor, stiffness: &Tensor) -> Result<Self> {
        let Some(deviations) = deviations else {
            return Ok(Self::Everywhere(seen.f_add(stiffness)?.f_reciprocal()?));
        };
        let logs = deviations.f_log()?.f_unsqueeze(1)?;
        let over = [2i64, 3, 4];
        let (least, most) = (logs.f_amin(over.as_slice(), true)?, logs.f_amax(over.as_slice(), true)?);
        let step = most.f_sub(&least)?.f_div_scalar(LEVELS - 1)?.f_clamp_min(1e-6)?;
        let levels = Tensor::f_arange(LEVELS, (logs.kind(), logs.device()))?.f_view([1, -1, 1, 1, 1])?;
        let away = logs.f_sub(&least)?.f_div(&step)?.f_sub(&levels)?.f_abs()?;
        let shares = away.f_rsub_scalar(1.0)?.f_clamp_min(0.0)?.f_sqrt()?;
        let variances = least.f_add(&step.f_mul(&levels)?)?.f_mul_scalar(2.0)?.f_exp()?;
        let seen = seen.f_mul(&variances.f_to_kind(seen.kind())?)?;
        // it need not be exact
        let factors = seen.f_add(&stiffness.f_unsqueeze(-4)?)?.f_reciprocal()?.f_to_kind(logs.kind())?;
        Ok(Self::Levels { shares, factors })
    }

    fn solved(&self, v: &Tensor, modes: &Circulant) -> Result<Tensor> {
        let (shares, factors) = match self {
            Self::Everywhere(factors) => return modes.times(v, factors),
            Self::Levels { shares, factors } => (shares, factors),
        };
        let plane = &v.size()[2..];
        // one image after another, as Circulant has it
        let one = |i: i64| {
            let shares = shares.f_get(i)?;
            let seen = v.f_get(i)?.f_mul(&shares)?.f_fft_rfft2(plane, [-2, -1], "backward")?;
            let solved = seen.f_mul(&factors.f_get(i)?)?.f_fft_irfft2(plane, [-2, -1], "backward")?;
            Ok(solved.f_mul(&shares)?.f_sum_dim_intlist([0i64].as_slice(), true, v.kind())?)
        };
        Ok(Tensor::f_cat(&(0..v.size()[0]).map(one).collect::<Result<Vec<_>>>()?, 0)?)
    }
}

/// What the system does to pictures of one grey, which are no mode of it: an operator of differences sees none of them, and
/// conjugate gradients would end before their part had settled. So that part is solved for itself (Nabben and Vuik 2006, the
/// balancing preconditioner).
struct Grey {
    /// R^-1 1, which R makes such a picture of.
    picture: Tensor,
    /// What the system makes of it.
    pulled: Tensor,
    /// The product of the two, (N, C, 1, 1).
    stiffness: Tensor,
}

impl Grey {
    fn of(deviations: &Tensor, least: &Least) -> Result<Self> {
        let picture = deviations.f_reciprocal()?;
        let pulled = least.times(&picture)?;
        let stiffness = over_pixels(&picture, &pulled)?;
        Ok(Self { picture, pulled, stiffness })
    }

    /// Next to the inverse: exact for these pictures, by `near` for what is left of `v`.
    fn solved(&self, v: &Tensor, near: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let share = over_pixels(&self.picture, v)?.f_div(&self.stiffness)?;
        let rest = near(&v.f_sub(&self.pulled.f_mul(&share)?)?)?;
        let share = share.f_sub(&over_pixels(&self.pulled, &rest)?.f_div(&self.stiffness)?)?;
        Ok(rest.f_add(&self.picture.f_mul(&share)?)?)
    }
}

/// Products of each image's channels, (N, C, 1, 1).
fn over_pixels(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (images, channels, height, width) = a.size4()?;
    let planes = [images * channels, 1, height, width];
    let products = inner(&a.f_reshape(planes)?, &b.f_reshape(planes)?)?;
    Ok(numbers(&products, a)?.f_view([images, channels, 1, 1])?)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::Arc;

    use tch::Device;

    use super::*;
    use crate::inverse::operators::blur::{Blurring, Boundary};
    use crate::inverse::{LinearOperator, Shape};

    /// Counts how often it is asked.
    struct Counted(Blurring, AtomicUsize);

    impl LinearOperator for Counted {
        fn img_shape(&self) -> Shape {
            self.0.img_shape()
        }
        fn out_shape(&self) -> Shape {
            self.0.out_shape()
        }
        fn apply(&self, x: &Tensor) -> Result<Tensor> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.apply(x)
        }
        fn adjoint(&self, y: &Tensor) -> Result<Tensor> {
            self.0.adjoint(y)
        }
    }

    /// Iterations for a sharp picture's worth of misfit, seen blurred with noise of 0.01.
    fn iterations(deviations: Option<&Tensor>) -> usize {
        let kernel = Tensor::ones([1, 7], (Kind::Double, Device::Cpu)) / 7.0;
        let blur = Blurring::new(&kernel, Boundary::Reflect, 32, 32).expect("a blur");
        let counted = Arc::new(Counted(blur, AtomicUsize::new(0)));
        tch::manual_seed(0);
        let r = Tensor::randn([2, 1, 32, 32], (Kind::Float, Device::Cpu)) * 0.1;
        let sigma = Tensor::full([1, 1, 1, 1], 0.01, (Kind::Double, Device::Cpu));
        let problem = Problem::new(counted.clone(), &r, sigma, &r, || Ok(())).expect("a problem");
        let waves = Tensor::arange(17, (Kind::Double, Device::Cpu)).square() + 4.0;
        let modes = (waves.shallow_clone() + waves.narrow(0, 0, 1)).reciprocal().expand([32, 17], false);
        let level = if deviations.is_none() { 1e-3 } else { 1.0 };
        let known = Covariance::new(&modes / modes.mean(Kind::Double) * level, deviations.map(Tensor::shallow_clone));
        let _ = problem.near().expect("a spectrum");
        counted.1.store(0, Ordering::Relaxed);
        let _ = known.towards(&r, &problem, 0.2).expect("a step");
        counted.1.load(Ordering::Relaxed)
    }

    #[test]
    fn a_spread_that_is_twenty_times_larger_in_places_takes_less_than_twice_the_iterations() {
        let place = Tensor::arange(32, (Kind::Float, Device::Cpu)) * (std::f64::consts::PI / 8.0);
        let deviations = (place.sin() * 1.5).exp().view([1, 1, 1, 32]).expand([2, 1, 32, 32], true) * 0.03;
        let (even, uneven) = (iterations(None), iterations(Some(&deviations)));
        let flat = deviations.full_like(1e-3f64.sqrt());
        // one product tells what the system makes of one grey
        let same = iterations(Some(&flat)) - 1;
        assert!(even > 3 && same.abs_diff(even) <= 1, "{even} and {same}");
        assert!(uneven < 2 * even, "{uneven} instead of {even}");
    }
}
