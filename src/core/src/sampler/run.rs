//! The one loop that follows a sampler's table. It knows none of them by name.

use std::collections::VecDeque;

use tch::{Kind, Tensor};

use super::correction::{At, Correction, Gradient, Means};
use super::table::{Row, Said, Table};
use crate::diffusion::process::{check_float, Denoised, Mixing};
use crate::diffusion::{Denoiser, Noise, Objective};
use crate::error::{ensure, Error, Result};

/// How the network's answers are taken.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    pub objective: Objective,
    /// Clamp every x0_hat, and the image at the end, to [-1, 1].
    pub clip: bool,
}

/// What a run needs from outside.
pub struct Outside<'a> {
    pub model: &'a mut dyn Denoiser,
    pub noise: &'a mut dyn Noise,
    pub correction: Option<&'a mut dyn Correction>,
    pub on_step: &'a mut OnStep<'a>,
}

/// Called after each step; an error ends the run.
pub type OnStep<'a> = dyn FnMut(&Step) -> Result<()> + 'a;

/// What is known after a step.
pub struct Step<'a> {
    /// From 0 to total - 1.
    pub index: usize,
    pub total: usize,
    /// The time at which the step asked the network first.
    pub t: f64,
    /// What the step made of x_t.
    pub x: &'a Tensor,
    /// The clean image that it took x_t for.
    pub x0_hat: &'a Tensor,
}

/// From x_T along the table.
pub fn sample(table: &Table, reading: Reading, x_t: Tensor, mut outside: Outside) -> Result<Tensor> {
    let total = table.steps();
    let on_timesteps = table.on_timesteps() && reading.objective != Objective::Flow;
    let kind = if on_timesteps { Kind::Int64 } else { Kind::Float };
    let mut past = Past::new(table, x_t);
    let (mut index, mut first, mut last) = (0, None, None);
    for row in &table.rows {
        if let Some(ask) = row.ask {
            let at = At { index, total, t: ask.t, level: ask.level, to: row.to };
            let said = denoised(&at, reading, kind, past.x(0)?, &mut outside)?;
            first.get_or_insert_with(|| (ask.t, said.x0_hat.shallow_clone()));
            past.hear(said);
            last = Some(at);
        }
        let mut x = past.sum(row)?;
        if let Some(s) = row.s {
            let z = outside.noise.normal(&x.size(), x.device())?;
            let _ = x.f_add_(&z.f_mul_scalar(s)?)?;
        }
        if let (true, Some(at)) = (row.ends_step, &last) {
            if let Some(correction) = &mut outside.correction {
                x = correction.after(at, x, outside.noise)?;
            }
            let (t, x0_hat) = match first.take() {
                Some(first) => first,
                None => (at.t, past.heard(0)?.x0_hat.shallow_clone()),
            };
            (outside.on_step)(&Step { index, total, t, x: &x, x0_hat: &x0_hat })?;
            index += 1;
        }
        past.make(x);
    }
    let x = past.latest()?;
    Ok(if reading.clip && table.ends_clean() { x.f_clamp(-1.0, 1.0)? } else { x })
}

/// What the network says about `x`, corrected.
fn denoised(at: &At, reading: Reading, kind: Kind, x: &Tensor, outside: &mut Outside) -> Result<Denoised> {
    let Reading { objective, clip } = reading;
    let mixing = Mixing::of(at.level)?;
    let (scale, t) = objective.question(at.t, at.level);
    let t = Tensor::f_full([x.size()[0]], t, (kind, x.device()))?;
    let shown = if scale == 1.0 { x.shallow_clone() } else { x.f_mul_scalar(scale)? };
    let read = |answer: &Tensor| {
        check_answer(x, answer)?;
        mixing.read(objective, x, &answer.f_to_kind(Kind::Float)?, clip)
    };
    let Some(correction) = &mut outside.correction else { return read(&outside.model.predict(&shown, &t)?) };
    let noise = &mut *outside.noise;
    if !correction.differentiates(at) {
        let said = read(&outside.model.predict(&shown, &t)?)?;
        return correction.denoised(at, x, said, &mut Means { noise, gradient: None });
    }
    let (answer, back) = outside.model.predict_with_vjp(&shown, &t)?;
    let said = read(&answer)?;
    let free = if clip { Some(said.x0_hat.f_abs()?.f_lt(1.0)?.f_to_kind(Kind::Float)?) } else { None };
    let gradient = Some(Gradient { answer: back, scale, weights: objective.x0_weights(at.level), free });
    correction.denoised(at, x, said, &mut Means { noise, gradient })
}

fn check_answer(x: &Tensor, answer: &Tensor) -> Result<()> {
    let (size, want) = (answer.size(), x.size());
    ensure!(size == want, Value, "model must return a tensor of the shape of x_t {want:?}, got {size:?}");
    check_float(answer, "what model returned")?;
    let (device, want) = (answer.device(), x.device());
    ensure!(device == want, Value, "model must return a tensor on the device of x_t ({want:?}), got {device:?}");
    Ok(())
}

/// As many of the latest images and answers as the table looks back on, the latest first.
struct Past {
    images: VecDeque<Tensor>,
    answers: VecDeque<Denoised>,
    memory: (usize, usize),
}

impl Past {
    fn new(table: &Table, x_t: Tensor) -> Self {
        Self { images: VecDeque::from([x_t]), answers: VecDeque::new(), memory: table.memory() }
    }

    fn make(&mut self, x: Tensor) {
        self.images.push_front(x);
        self.images.truncate(self.memory.0);
    }

    fn hear(&mut self, said: Denoised) {
        self.answers.push_front(said);
        self.answers.truncate(self.memory.1);
    }

    fn x(&self, age: usize) -> Result<&Tensor> {
        self.images.get(age).ok_or_else(|| Error::Runtime(format!("a sampler looks back on {age} images too many")))
    }

    fn heard(&self, age: usize) -> Result<&Denoised> {
        self.answers.get(age).ok_or_else(|| Error::Runtime(format!("a sampler looks back on {age} answers too many")))
    }

    fn latest(mut self) -> Result<Tensor> {
        self.images.pop_front().ok_or_else(|| Error::Runtime("a sampler made no image".into()))
    }

    fn said(&self, said: Said) -> Result<&Tensor> {
        let answer = self.heard(said.age())?;
        Ok(match said {
            Said::X0(_) => &answer.x0_hat,
            Said::Eps(_) => &answer.eps_hat,
        })
    }

    /// The row's sum without its noise, in memory of its own.
    fn sum(&self, row: &Row) -> Result<Tensor> {
        let said = row.b.iter().map(|(said, weight)| (self.said(*said), weight));
        let images = row.a.iter().map(|(age, weight)| (self.x(*age), weight));
        let mut sum: Option<Tensor> = None;
        for (tensor, weight) in said.chain(images) {
            let term = tensor?.f_mul_scalar(*weight)?;
            sum = Some(match sum {
                Some(mut sum) => sum.f_add_(&term)?,
                None => term,
            });
        }
        sum.ok_or_else(|| Error::Runtime("a sampler has an empty row".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{run, schedule, Oracle, Waves, EPS};
    use super::super::{ddim, ddpm, Ask};
    use super::*;
    use crate::diffusion::schedule::Level;
    use tch::Device;

    fn images(shape: &[i64]) -> Tensor {
        Tensor::randn(shape, (Kind::Float, Device::Cpu))
    }

    fn largest(x: Tensor) -> f64 {
        f64::try_from(x.abs().max()).expect("a number")
    }

    /// Notes where it is asked; pulls x0_hat to 0.5 and adds 1 to every image that ends a step.
    #[derive(Default)]
    struct Pulls {
        asked: Vec<At>,
        gradient: Option<Tensor>,
    }

    impl Correction for Pulls {
        fn differentiates(&self, at: &At) -> bool {
            at.index == 1
        }
        fn denoised(&mut self, at: &At, x_t: &Tensor, said: Denoised, means: &mut Means) -> Result<Denoised> {
            self.asked.push(*at);
            let w = x_t.ones_like();
            match means.x0_vjp(&w) {
                Ok(gradient) => self.gradient = Some(gradient),
                Err(_) => assert_ne!(at.index, 1),
            }
            Ok(Denoised { x0_hat: said.x0_hat.f_zeros_like()?.f_add_scalar(0.5)?, ..said })
        }
        fn after(&mut self, _: &At, x_next: Tensor, _: &mut dyn Noise) -> Result<Tensor> {
            Ok(x_next.f_add_scalar(1.0)?)
        }
    }

    #[test]
    fn a_correction_speaks_after_the_network_and_after_the_step() {
        let schedule = schedule(10);
        let table = ddim(&schedule.alpha_bars, &[9, 4, 0], 0.0).expect("a table");
        let mut pulls = Pulls::default();
        let reading = Reading { clip: false, ..EPS };
        let mut model = Oracle::of(&schedule, 0.0);
        let out =
            run(&table, reading, images(&[2, 1, 4, 4]), &mut model, &mut Waves(0), Some(&mut pulls), &mut |_| Ok(()));
        assert!(largest(out.expect("images") - 1.5) < 1e-6);
        assert_eq!(pulls.asked.iter().map(|at| (at.index, at.t)).collect::<Vec<_>>(), [(0, 9.0), (1, 4.0), (2, 0.0)]);
        assert_eq!(pulls.asked[2].to, Level::CLEAN);
        // x0_hat of the oracle is the image it knows, whatever x_t is
        assert!(largest(pulls.gradient.expect("a gradient")) < 1e-3);
    }

    #[test]
    fn a_correction_that_changes_nothing_changes_nothing() {
        struct Nothing;
        impl Correction for Nothing {}
        let schedule = schedule(10);
        let start = images(&[2, 1, 4, 4]);
        let table = ddpm(&schedule).expect("a table");
        let draw = |corrected: bool| {
            let (mut model, mut nothing) = (Oracle::of(&schedule, 0.3), Nothing);
            let correction = corrected.then_some(&mut nothing as &mut dyn Correction);
            run(&table, EPS, start.shallow_clone(), &mut model, &mut Waves(0), correction, &mut |_| Ok(()))
        };
        assert_eq!(draw(false).expect("images"), draw(true).expect("images"));
    }

    #[test]
    fn rows_that_only_evaluate_look_back_and_are_no_steps() {
        let level = Level { signal: 0.6, spread: 0.8 };
        let ask = |t| Some(Ask { t, level });
        let first = Row { ask: ask(3.5), a: vec![(0, 2.0)], b: vec![], s: None, to: level, ends_step: false };
        let second = Row {
            ask: ask(3.0),
            a: vec![(1, 1.0), (0, 10.0)],
            b: vec![(Said::Eps(1), 100.0)],
            s: Some(0.0),
            to: level,
            ends_step: true,
        };
        let table = Table { rows: vec![first, second] };
        struct Counts(Vec<Tensor>);
        impl Denoiser for Counts {
            fn predict(&mut self, x: &Tensor, t: &Tensor) -> Result<Tensor> {
                self.0.push(t.shallow_clone());
                Ok(x.f_zeros_like()?.f_add_scalar(self.0.len() as f64)?)
            }
        }
        let (mut model, mut noise, mut seen) = (Counts(vec![]), Waves(0), vec![]);
        let out = run(
            &table,
            EPS,
            Tensor::ones([1, 1, 1, 1], (Kind::Float, Device::Cpu)),
            &mut model,
            &mut noise,
            None,
            &mut |step| {
                seen.push((step.index, step.total, step.t));
                Ok(())
            },
        );
        // 1 * x_1 + 10 * (2 x_1) + 100 * the first answer
        assert_eq!(out.expect("an image").double_value(&[0, 0, 0, 0]), 121.0);
        assert_eq!((seen, noise.0), (vec![(0, 1, 3.5)], 1));
        assert!(model.0.iter().all(|t| t.kind() == Kind::Float), "times between timesteps are not integers");
    }

    #[test]
    fn without_clipping_nothing_is_clamped() {
        let schedule = schedule(6);
        let table = ddim(&schedule.alpha_bars, &[5, 2, 0], 0.0).expect("a table");
        for (clip, want) in [(true, 1.0), (false, 3.0)] {
            let mut model = Oracle::of(&schedule, 3.0);
            let reading = Reading { clip, ..EPS };
            let out = run(&table, reading, images(&[1, 1, 4, 4]), &mut model, &mut Waves(0), None, &mut |step| {
                assert!(largest(step.x0_hat - want) < 1e-2);
                Ok(())
            });
            assert!(largest(out.expect("images") - want) < 1e-2);
        }
    }

    #[test]
    fn what_is_handed_out_stays_as_it_is() {
        let schedule = schedule(10);
        let table = ddpm(&schedule).expect("a table");
        let mut seen = vec![];
        let mut model = Oracle::of(&schedule, 0.3);
        let out = run(&table, EPS, images(&[1, 1, 4, 4]), &mut model, &mut Waves(0), None, &mut |step| {
            seen.push((step.x.shallow_clone(), step.x.copy(), step.x0_hat.shallow_clone(), step.x0_hat.copy()));
            Ok(())
        });
        assert!(out.is_ok() && seen.len() == 10);
        assert!(seen.iter().all(|(x, then, x0, x0_then)| x == then && x0 == x0_then));
    }

    #[test]
    fn an_answer_of_another_shape_is_refused() {
        struct Halves;
        impl Denoiser for Halves {
            fn predict(&mut self, x: &Tensor, _: &Tensor) -> Result<Tensor> {
                Ok(x.f_narrow(3, 0, 2)?)
            }
        }
        let table = ddim(&schedule(6).alpha_bars, &[5], 0.0).expect("a table");
        let out = run(&table, EPS, images(&[1, 1, 4, 4]), &mut Halves, &mut Waves(0), None, &mut |_| Ok(()));
        assert!(out.expect_err("an error").to_string().contains("[1, 1, 4, 4], got [1, 1, 4, 2]"));
    }
}
