//! The likelihood of images by the probability flow, Song et al. 2021, section 4.3 and appendix D.2.
//!
//! Along dy/dsigma = eps_hat with y = x / signal, the logarithm of the density falls by the divergence of eps_hat. The table is
//! Heun's method up the levels of noise; the divergence is gathered by a correction that changes nothing.

use tch::{Kind, Tensor};

use super::correction::{At, Correction, Means};
use super::path::Path;
use super::rows::heun;
use super::table::{Row, Said, Table};
use crate::diffusion::process::Denoised;
use crate::diffusion::schedule::Level;
use crate::error::Result;

/// From the clean image to the highest level; the divergence is taken at every level, and once more for the way from the clean
/// image to the lowest.
pub fn flow_up(path: Path) -> Table {
    let path = path.upwards();
    let (low, high) = (path.level(0), path.level(path.steps()));
    let lift = Row { a: vec![(0, low.signal)], ends_step: false, ..Row::to(low) };
    // near the clean image eps_hat grows in proportion to sigma: half of it on the way
    let onset =
        Row { ask: Some(path.asks[0]), a: vec![(0, 1.0)], b: vec![(Said::Eps(0), low.spread / 2.0)], ..Row::to(low) };
    let mut rows = vec![lift, onset];
    rows.extend(heun(&path).rows);
    // Heun's last step would only stay where it is
    rows.pop();
    rows.push(Row { ask: path.asks.last().copied(), a: vec![(0, 1.0)], ..Row::to(high) });
    Table { rows }
}

/// Gathers the divergence along [`flow_up`] by Hutchinson's estimate: w^T J w for random signs w, the same all along.
pub struct Divergence {
    probes: usize,
    signs: Vec<Tensor>,
    /// The level and divergence before, in units of the logarithm of sigma.
    before: Option<(Level, Tensor)>,
    /// By image, in float64.
    gathered: Option<Tensor>,
}

impl Divergence {
    pub fn new(probes: usize) -> Self {
        Self { probes, signs: vec![], before: None, gathered: None }
    }

    /// log p of each image, from where the flow has taken it: there it is one of standard normal noise.
    pub fn log_density(&self, x_t: &Tensor) -> Result<Tensor> {
        let x = x_t.f_to_kind(Kind::Double)?.f_flatten(1, -1)?;
        let pixels = x.size()[1] as f64;
        let normal = x.f_square()?.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?.f_mul_scalar(-0.5)?;
        let normal = normal.f_sub_scalar(0.5 * pixels * (2.0 * std::f64::consts::PI).ln())?;
        let signal = self.before.as_ref().map_or(1.0, |(level, _)| level.signal);
        let there = normal.f_add_scalar(pixels * signal.ln())?;
        Ok(match &self.gathered {
            Some(gathered) => there.f_add(gathered)?,
            None => there,
        })
    }

    /// sigma times the divergence of eps_hat with respect to y: what a step over the logarithm of sigma gathers.
    fn density(&mut self, x_t: &Tensor, level: Level, means: &mut Means) -> Result<Tensor> {
        let sum = |x: Tensor| {
            Ok::<_, crate::Error>(x.f_flatten(1, -1)?.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?)
        };
        while self.signs.len() < self.probes {
            let z = means.noise.normal(&x_t.size(), x_t.device())?;
            self.signs.push(z.f_ge(0.0)?.f_to_kind(Kind::Float)?.f_mul_scalar(2.0)?.f_sub_scalar(1.0)?);
        }
        let mut trace = Tensor::f_zeros([x_t.size()[0]], (Kind::Double, x_t.device()))?;
        for signs in &self.signs {
            trace = trace.f_add(&sum(means.x0_vjp(signs)?.f_mul(signs)?)?)?;
        }
        let pixels = x_t.size().iter().skip(1).product::<i64>() as f64;
        Ok(trace.f_mul_scalar(-level.signal / self.probes as f64)?.f_add_scalar(pixels)?)
    }
}

impl Correction for Divergence {
    /// Not at the ends of Heun's steps, which are only predicted.
    fn differentiates(&self, at: &At) -> bool {
        at.level != at.to || at.index == 0 || at.index + 1 == at.total
    }

    fn denoised(&mut self, at: &At, x_t: &Tensor, said: Denoised, means: &mut Means) -> Result<Denoised> {
        if !self.differentiates(at) {
            return Ok(said);
        }
        let here = self.density(x_t, at.level, means)?;
        let step = match &self.before {
            // the way from the clean image, see `flow_up`
            None => here.f_mul_scalar(0.5)?,
            Some((level, before)) => {
                let length = at.level.sigma().ln() - level.sigma().ln();
                before.f_add(&here)?.f_mul_scalar(length / 2.0)?
            }
        };
        self.gathered = Some(match &self.gathered {
            Some(gathered) => gathered.f_add(&step)?,
            None => step,
        });
        self.before = Some((at.level, here));
        Ok(said)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{run, schedule, Waves};
    use super::super::{timestep_grid, Reading, Spacing};
    use super::*;
    use crate::diffusion::denoiser::by_autograd;
    use crate::diffusion::{Denoiser, Objective, Vjp};
    use tch::Device;

    /// The exact denoiser of N(0, 0.25).
    struct Gaussian(Vec<f32>);

    impl Gaussian {
        fn eps(&self, x: &Tensor, t: &Tensor) -> Result<Tensor> {
            let bar = f64::from(self.0[t.f_double_value(&[0])? as usize]);
            Ok(x.f_mul_scalar((1.0 - bar).sqrt() / (0.25 * bar + 1.0 - bar))?)
        }
    }

    impl Denoiser for Gaussian {
        fn predict(&mut self, x: &Tensor, t: &Tensor) -> Result<Tensor> {
            self.eps(x, t)
        }
        fn predict_with_vjp<'a>(&'a mut self, x: &Tensor, t: &Tensor) -> Result<(Tensor, Box<dyn Vjp + 'a>)> {
            by_autograd(x, |x| self.eps(x, t))
        }
    }

    #[test]
    fn it_is_exact_for_a_gaussian() {
        let alpha_bars = schedule(400).alpha_bars;
        let x = Tensor::randn([5, 1, 4, 4], (Kind::Float, Device::Cpu)) * 0.5;
        let exact = (x.square() / -0.5 - (0.5 * std::f64::consts::PI).ln() / 2.0).flatten(1, -1).sum_dim_intlist(
            [1i64].as_slice(),
            false,
            Kind::Double,
        );
        for (steps, near) in [(50, 0.05), (200, 0.02)] {
            let grid = timestep_grid(400, steps, Spacing::Course).expect("a grid");
            let table = flow_up(Path::down(&alpha_bars, &grid).expect("a path"));
            let mut divergence = Divergence::new(1);
            let reading = Reading { objective: Objective::Eps, clip: false };
            let mut model = Gaussian(alpha_bars.clone());
            let end =
                run(&table, reading, x.shallow_clone(), &mut model, &mut Waves(0), Some(&mut divergence), &mut |_| {
                    Ok(())
                });
            let got = divergence.log_density(&end.expect("noise")).expect("a density");
            let error = f64::try_from((got - &exact).abs().max()).expect("a number") / 16.0;
            assert!(error < near, "{error} nats a pixel with {steps} steps");
        }
    }
}
