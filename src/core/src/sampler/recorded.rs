//! A denoiser on an accelerator whose whole step is recorded once, and kept for the next images.

use tch::{Kind, Tensor};

use super::plan::{Numbers, Rule};
use super::step::{step, At, Draw, Stepped, Stepper};
use super::Denoiser;
use crate::device::{Capture, Graph};
use crate::error::{Error, Result};

/// Steps of `inner`, which draws no random numbers, on tensors that stay in their place, as a recording needs it.
pub struct Recorded<D> {
    inner: D,
    rule: Rule,
    recording: Capture,
    x: Tensor,
    t: Tensor,
    numbers: Tensor,
    noise: Tensor,
    out: Option<Stepped>,
}

impl<D: Denoiser> Recorded<D> {
    /// For batches of the shape, dtype and device of `x`.
    pub fn new(inner: D, rule: Rule, recorder: Box<dyn Graph + Send>, x: &Tensor) -> Result<Self> {
        let device = x.device();
        Ok(Self {
            inner,
            rule,
            recording: Capture::new(Some(recorder)),
            x: x.f_zeros_like()?,
            t: Tensor::f_zeros([x.size()[0]], (Kind::Int64, device))?,
            numbers: Tensor::f_zeros([Numbers::COUNT as i64], (Kind::Float, device))?,
            noise: x.f_zeros_like()?,
            out: None,
        })
    }

    pub fn inner(&self) -> &D {
        &self.inner
    }

    pub fn inner_mut(&mut self) -> &mut D {
        &mut self.inner
    }

    /// Whether it makes such steps of batches like `x`.
    pub fn fits(&self, rule: Rule, x: &Tensor) -> bool {
        let like = |a: &Tensor, b: &Tensor| a.size() == b.size() && a.kind() == b.kind() && a.device() == b.device();
        self.rule == rule && like(&self.x, x)
    }
}

impl<D: Denoiser> Stepper for Recorded<D> {
    fn step(&mut self, _: Rule, x: &Tensor, at: &At, draw: &mut Draw) -> Result<Stepped> {
        self.x.f_copy_(x)?;
        self.numbers.f_copy_(&at.numbers)?;
        let _ = self.t.f_fill_(at.timestep)?;
        // where no noise is wanted, what lies in its place is taken times 0
        if let Some(z) = draw()? {
            self.noise.f_copy_(&z)?;
        }
        let Self { inner, rule, recording, x, t, numbers, noise, out } = self;
        recording.run(&mut || {
            let mut drawn = || Ok(rule.noisy.then(|| noise.shallow_clone()));
            *out = Some(step(inner, *rule, x, t, numbers, &mut drawn)?);
            Ok(())
        })?;
        let made = out.as_ref().ok_or_else(|| Error::Runtime("a recorded step left nothing".into()))?;
        // the next step will write where this one did
        let kept = |tensor: &Tensor| -> Result<Tensor> {
            let mut copy = tensor.f_empty_like()?;
            copy.f_copy_(tensor)?;
            Ok(copy)
        };
        Ok(Stepped { x: kept(&made.x)?, x0_hat: kept(&made.x0_hat)? })
    }
}

#[cfg(test)]
mod tests {
    use super::super::fakes::{schedule, Oracle};
    use super::super::{ddim, ddpm, sample, Noise, Objective, Plan};
    use super::*;
    use tch::Device;

    struct Refuses;

    impl Graph for Refuses {
        fn begin(&mut self) -> Result<bool> {
            Ok(false)
        }
        fn end(&mut self, _: bool) -> Result<bool> {
            Ok(false)
        }
        fn replay(&mut self) -> Result<()> {
            Ok(())
        }
    }

    /// Draws that can be repeated.
    struct Waves(i64);

    impl Noise for Waves {
        fn normal(&mut self, shape: &[i64], device: Device) -> Result<Tensor> {
            self.0 += 1;
            let count = shape.iter().product::<i64>();
            Ok(Tensor::f_arange(count, (Kind::Float, device))?.f_add_scalar(self.0)?.f_sin()?.f_view(shape)?)
        }
    }

    fn images(stepper: &mut dyn Stepper, plan: &Plan, start: &Tensor) -> (Tensor, Vec<Tensor>) {
        let mut trajectory = vec![];
        let out = sample(stepper, plan, start.shallow_clone(), &mut Waves(0), &mut |step| {
            trajectory.push(step.x.shallow_clone());
            Ok(())
        });
        (out.expect("images"), trajectory)
    }

    #[test]
    fn steps_are_those_of_the_denoiser_inside() {
        let schedule = schedule(10);
        let oracle = || Oracle { alpha_bars: schedule.alpha_bars.clone(), x0: 0.5, seen: vec![] };
        let grid: Vec<i64> = (0..10).rev().collect();
        let start = Tensor::randn([2, 1, 4, 4], (Kind::Float, Device::Cpu));
        let mut plans = vec![ddpm(&schedule, Objective::Eps).expect("a plan")];
        plans.extend([0.0, 0.8].map(|eta| ddim(&schedule.alpha_bars, &grid, eta, Objective::Eps)));
        for plan in plans {
            let rule = plan.rule;
            let mut recorded = Recorded::new(oracle(), rule, Box::new(Refuses), &start).expect("a place");
            assert!(recorded.fits(rule, &start) && !recorded.fits(rule, &start.narrow(0, 0, 1)));
            assert!(!recorded.fits(Rule { noisy: !rule.noisy, ..rule }, &start));
            let (want, path) = images(&mut oracle(), &plan, &start);
            for _ in 0..2 {
                let (got, same) = images(&mut recorded, &plan, &start);
                assert_eq!(got, want);
                assert_eq!(same, path, "what was handed out stays as it was");
            }
            assert_eq!(recorded.inner().seen, [grid.clone(), grid.clone()].concat());
        }
    }
}
