//! From clean images to what the network is asked, and what it should have answered.

use tch::{Device, Kind, Tensor};

use crate::choice::Choice;
use crate::data::to_values;
use crate::diffusion::objective::FLOW_TIME;
use crate::diffusion::process::Mixing;
use crate::diffusion::{Objective, Schedule};
use crate::error::{ensure, Error, Result};

/// Images in float32; grey levels become values in [-1, 1].
pub fn normalised(images: &Tensor) -> Result<Tensor> {
    match images.f_kind() {
        Ok(Kind::Uint8) => to_values(images),
        Ok(Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16) => Ok(images.f_to_kind(Kind::Float)?),
        kind => Err(Error::Type(format!(
            "data must hold floating-point images in [-1, 1] or uint8 grey levels, got {kind:?}"
        ))),
    }
}

/// What a network is asked about clean images at timesteps `t` with this noise, and what it should answer: x_t, the times
/// it is shown, the target. On a straight path, timestep t is the middle of the t-th of as many equal stretches.
pub fn question(
    x0: &Tensor,
    t: &Tensor,
    noise: &Tensor,
    schedule: &Schedule,
    objective: Objective,
) -> Result<(Tensor, Tensor, Tensor)> {
    let (mixing, shown) = match objective {
        Objective::Flow => {
            let shown = t.f_to_kind(Kind::Float)?.f_add_scalar(0.5)?.f_mul_scalar(FLOW_TIME / schedule.len() as f64)?;
            (Mixing::straight(&shown, &x0.size())?, shown)
        }
        _ => (Mixing::at(&Tensor::f_from_slice(&schedule.alpha_bars)?, t, &x0.size())?, t.shallow_clone()),
    };
    Ok((mixing.noised(x0, noise)?, shown, mixing.target(objective, x0, noise)?))
}

/// How the times of training are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimeSampling {
    #[default]
    Uniform,
    /// More of the middle: the share of noise, spread / (signal + spread), which is the time of a straight path, is the
    /// logistic function of a standard normal number (Esser et al. 2024, section 3.1).
    LogitNormal,
    /// More of little noise, which decides over texture: the ratio of noise to signal is log-normal (Karras et al. 2022,
    /// table 1), so that the share of noise is the logistic function of a normal number here too.
    LogNormal,
}

impl TimeSampling {
    /// Mean and standard deviation of the logit of the share of noise, where it is normal.
    fn logit(self) -> Option<(f64, f64)> {
        match self {
            Self::Uniform => None,
            Self::LogitNormal => Some((0.0, 1.0)),
            Self::LogNormal => Some((-1.2, 1.2)),
        }
    }
}

impl Choice for TimeSampling {
    const WHAT: &'static str = "time_sampling";
    const ALL: &'static [(&'static str, Self)] =
        &[("uniform", Self::Uniform), ("logit_normal", Self::LogitNormal), ("log_normal", Self::LogNormal)];
}

/// The noising process as the loop uses it: tables of T coefficients on the device of the network.
pub struct Noising {
    /// Of every timestep.
    mixing: Mixing,
    /// Shares of noise half-way between neighbouring timesteps, (T - 1): between two of them, the timestep is the nearest.
    borders: Tensor,
    /// Weight of each timestep in the loss; None: all 1.
    weight: Option<Tensor>,
    objective: Objective,
    time_sampling: TimeSampling,
    timesteps: i64,
    device: Device,
}

/// One batch (or a process' rows of one): the question, the answer wanted, and what it weighs.
pub struct Noised {
    pub x_t: Tensor,
    pub t: Tensor,
    target: Tensor,
    weight: Option<Tensor>,
}

impl Noising {
    pub fn new(schedule: &Schedule, objective: Objective, min_snr: Option<f64>, device: Device) -> Result<Self> {
        let alpha_bars = Tensor::f_from_slice(&schedule.alpha_bars)?;
        let column = |values: Tensor| values.f_view([-1, 1, 1, 1])?.f_to_device(device);
        let weight = match min_snr {
            Some(cap) => Some(column(min_snr_weights(&alpha_bars, objective, cap)?)?),
            None => None,
        };
        let mixing = Mixing {
            signal: column(alpha_bars.f_sqrt()?)?,
            spread: column(alpha_bars.f_neg()?.f_add_scalar(1.0)?.f_sqrt()?)?,
        };
        Ok(Self {
            borders: borders(&mixing)?,
            mixing,
            weight,
            objective,
            time_sampling: TimeSampling::default(),
            timesteps: schedule.len() as i64,
            device,
        })
    }

    /// Draws times in this way.
    pub fn with_times(self, time_sampling: TimeSampling) -> Self {
        Self { time_sampling, ..self }
    }

    /// A batch on the network's device, see [`normalised`].
    pub fn images(&self, batch: &Tensor) -> Result<Tensor> {
        ensure!(batch.size().len() == 4, Value, "data must give batches of shape (B, C, H, W), got {:?}", batch.size());
        normalised(&batch.f_to_device(self.device)?)
    }

    /// Draws, in this order: mirrorings if `flip`, then t ~ U{0..T-1} per image, then eps ~ N(0, I). All for the `total`
    /// images of the whole batch, of which `x0` are those from `first` on, so that each process draws the same.
    pub fn draw(&self, x0: &Tensor, total: i64, first: i64, flip: bool) -> Result<Noised> {
        let size = x0.size();
        let share = |all: &Tensor| all.f_narrow(0, first, size[0]);
        let x0 = if flip {
            let coin = Tensor::f_randint(2, [total, 1, 1, 1], (Kind::Int64, self.device))?;
            x0.f_flip([3])?.f_where_self(&share(&coin)?.f_to_kind(Kind::Bool)?, x0)?
        } else {
            x0.shallow_clone()
        };
        let t = self.times(total)?;
        let noise = Tensor::f_randn([total, size[1], size[2], size[3]], (Kind::Float, self.device))?;
        let (t, noise) = (share(&t)?, share(&noise)?);
        let mixing = self.mixing_at(&t)?;
        let x_t = mixing.noised(&x0, &noise)?;
        let target = mixing.target(self.objective, &x0, &noise)?;
        let weight = match &self.weight {
            Some(weight) => Some(weight.f_index_select(0, &t)?),
            None => None,
        };
        Ok(Noised { x_t, t, target, weight })
    }

    /// A time for each of `total` images: a timestep, or for "flow" any time on the straight path.
    fn times(&self, total: i64) -> Result<Tensor> {
        let float = (Kind::Float, self.device);
        let share = |(mean, deviation): (f64, f64)| {
            Ok::<_, Error>(Tensor::f_randn([total], float)?.f_mul_scalar(deviation)?.f_add_scalar(mean)?.f_sigmoid()?)
        };
        Ok(match (self.objective, self.time_sampling.logit()) {
            (Objective::Flow, None) => Tensor::f_rand([total], float)?.f_mul_scalar(FLOW_TIME)?,
            (Objective::Flow, Some(logit)) => share(logit)?.f_mul_scalar(FLOW_TIME)?,
            (_, None) => Tensor::f_randint(self.timesteps, [total], (Kind::Int64, self.device))?,
            (_, Some(logit)) => share(logit)?.f_bucketize(&self.borders, false, false)?,
        })
    }

    fn mixing_at(&self, t: &Tensor) -> Result<Mixing> {
        if self.objective == Objective::Flow {
            return Mixing::straight(t, &[1; 4]);
        }
        let at = |column: &Tensor| column.f_index_select(0, t);
        Ok(Mixing { signal: at(&self.mixing.signal)?, spread: at(&self.mixing.spread)? })
    }
}

impl Noised {
    pub fn images(&self) -> i64 {
        self.t.size()[0]
    }

    /// The squared error and its derivative by the prediction, as a mean over `reference` images: for a batch in one
    /// piece that is the mean over the batch, for parts of one the parts add up to it.
    pub fn loss(&self, prediction: &Tensor, reference: i64) -> Result<(Tensor, Tensor)> {
        let difference = prediction.f_sub(&self.target)?;
        let share = self.images() as f64 / reference as f64;
        let mut squares = difference.f_square()?;
        let mut gradient = difference.f_mul_scalar(2.0 * share / difference.numel().max(1) as f64)?;
        if let Some(weight) = &self.weight {
            squares = squares.f_mul(weight)?;
            gradient = gradient.f_mul(weight)?;
        }
        let loss = squares.f_mean(Kind::Float)?.f_mul_scalar(share)?;
        Ok((loss, gradient))
    }
}

/// Half-way between the shares of noise of each timestep and the next.
fn borders(mixing: &Mixing) -> Result<Tensor> {
    let shares = mixing.spread.f_div(&mixing.signal.f_add(&mixing.spread)?)?.f_flatten(0, -1)?;
    let between = shares.size()[0] - 1;
    Ok(shares.f_narrow(0, 0, between)?.f_add(&shares.f_narrow(0, 1, between)?)?.f_div_scalar(2.0)?)
}

/// Hang et al. 2023, sections 3.4 and 4.2: min(SNR, cap) for the error in x0, divided by SNR for eps and by SNR + 1 for v.
fn min_snr_weights(alpha_bars: &Tensor, objective: Objective, cap: f64) -> Result<Tensor> {
    let alpha_bars = alpha_bars.f_to_kind(Kind::Double)?;
    let snr = alpha_bars.f_div(&alpha_bars.f_neg()?.f_add_scalar(1.0)?)?;
    let capped = snr.f_clamp_max(cap)?;
    let weight = match objective {
        Objective::Eps => capped.f_div(&snr)?,
        Objective::X0 => capped,
        Objective::V => capped.f_div(&snr.f_add_scalar(1.0)?)?,
        Objective::Flow => {
            return Err(Error::Value("min_snr_gamma weights timesteps, which objective \"flow\" does not have".into()))
        }
    };
    Ok(weight.f_to_kind(Kind::Float)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::schedule::cosine_betas;

    fn noising(objective: Objective, min_snr: Option<f64>) -> Noising {
        let betas = cosine_betas(10, 0.008).expect("betas");
        let schedule = Schedule::from_betas(&betas).expect("a schedule");
        Noising::new(&schedule, objective, min_snr, Device::Cpu).expect("tables")
    }

    fn largest(x: Tensor) -> f64 {
        f64::try_from(x.abs().max()).expect("a number")
    }

    #[test]
    fn shares_of_a_batch_add_up_to_the_whole() {
        let noising = noising(Objective::Eps, None);
        let x0 = Tensor::rand([5, 1, 4, 4], (Kind::Float, Device::Cpu));
        tch::manual_seed(3);
        let whole = noising.draw(&x0, 5, 0, false).expect("a draw");
        let answer = Tensor::zeros([5, 1, 4, 4], (Kind::Float, Device::Cpu));
        let (loss, gradient) = whole.loss(&answer, 5).expect("a loss");
        let mut sum = 0.0;
        for (first, rows) in [(0, 2), (2, 3)] {
            tch::manual_seed(3);
            let part = noising.draw(&x0.narrow(0, first, rows), 5, first, false).expect("a draw");
            let (loss, part) = part.loss(&answer.narrow(0, 0, rows), 5).expect("a loss");
            sum += f64::try_from(loss).expect("a number");
            assert!(largest(part - gradient.narrow(0, first, rows)) < 1e-7);
        }
        assert!((f64::try_from(loss).expect("a number") - sum).abs() < 1e-6);
    }

    #[test]
    fn flow_is_asked_between_the_timesteps_for_the_velocity() {
        let x0 = Tensor::rand([64, 1, 2, 2], (Kind::Float, Device::Cpu));
        let draw = noising(Objective::Flow, None).draw(&x0, 64, 0, false).expect("a draw");
        assert_eq!(draw.t.kind(), Kind::Float);
        let (low, high) = (draw.t.min().double_value(&[]), draw.t.max().double_value(&[]));
        assert!((0.0..200.0).contains(&low) && (800.0..=1000.0).contains(&high), "{low} to {high}");
        let s = (&draw.t / 1000.0).view([-1, 1, 1, 1]);
        // x_t - s (eps - x0) is x0
        assert!(largest(&draw.x_t - s * &draw.target - x0) < 1e-5);
        let schedule = Schedule::from_betas(&cosine_betas(10, 0.008).expect("betas")).expect("a schedule");
        assert!(Noising::new(&schedule, Objective::Flow, Some(5.0), Device::Cpu).is_err());
    }

    #[test]
    fn times_are_logistic_of_normal_numbers() {
        for (way, mean, deviation) in [(TimeSampling::LogitNormal, 0.0, 1.0), (TimeSampling::LogNormal, -1.2, 1.2)] {
            let noising = noising(Objective::Flow, None).with_times(way);
            let normal = (noising.times(20_000).expect("times") / 1000.0).logit(None);
            let found = (normal.mean(Kind::Float).double_value(&[]), normal.std(true).double_value(&[]));
            assert!((found.0 - mean).abs() < 0.04 && (found.1 - deviation).abs() < 0.03, "{way:?}: {found:?}");
        }
    }

    #[test]
    fn timesteps_have_the_noise_of_times_on_the_straight_path() {
        let betas = cosine_betas(1000, 0.008).expect("betas");
        let schedule = Schedule::from_betas(&betas).expect("a schedule");
        for (way, mean, deviation) in [(TimeSampling::LogitNormal, 0.0, 1.0), (TimeSampling::LogNormal, -1.2, 1.2)] {
            let noising = Noising::new(&schedule, Objective::V, None, Device::Cpu).expect("tables");
            let t = noising.with_times(way).times(20_000).expect("timesteps");
            assert_eq!(t.kind(), Kind::Int64);
            let alpha_bars = Tensor::from_slice(&schedule.alpha_bars).index_select(0, &t);
            // the logit of spread / (signal + spread)
            let normal = (alpha_bars.neg() + 1.0).divide(&alpha_bars).log() / 2.0;
            let found = (normal.mean(Kind::Double).double_value(&[]), normal.std(true).double_value(&[]));
            assert!((found.0 - mean).abs() < 0.04 && (found.1 - deviation).abs() < 0.03, "{way:?}: {found:?}");
        }
        let one = Schedule::from_betas(&Tensor::from_slice(&[0.1f64])).expect("a schedule of one step");
        let one = Noising::new(&one, Objective::Eps, None, Device::Cpu).expect("tables");
        let t = one.with_times(TimeSampling::LogitNormal).times(8).expect("timesteps");
        assert_eq!(Vec::<i64>::try_from(t).expect("numbers"), [0; 8]);
    }

    #[test]
    fn a_question_about_flow_is_on_its_straight_path_and_others_are_on_the_schedule() {
        let schedule = Schedule::from_betas(&cosine_betas(10, 0.008).expect("betas")).expect("a schedule");
        let draw = || Tensor::randn([10, 1, 2, 2], (Kind::Float, Device::Cpu));
        let (x0, eps, t) = (draw(), draw(), Tensor::arange(10, (Kind::Int64, Device::Cpu)));
        let (x_t, shown, target) = question(&x0, &t, &eps, &schedule, Objective::Flow).expect("a question");
        assert_eq!(
            Vec::<f32>::try_from(&shown).expect("times"),
            (0..10).map(|k| 100.0 * k as f32 + 50.0).collect::<Vec<_>>()
        );
        assert!(largest(x_t - (&shown / 1000.0).view([-1, 1, 1, 1]) * target - &x0) < 1e-5);
        let (_, shown, target) = question(&x0, &t, &eps, &schedule, Objective::Eps).expect("a question");
        assert!(shown == t && target == eps);
    }

    #[test]
    fn the_gradient_is_that_of_the_loss() {
        for (objective, cap) in [(Objective::Eps, None), (Objective::X0, Some(5.0)), (Objective::V, Some(5.0))] {
            let x0 = Tensor::rand([3, 1, 4, 4], (Kind::Float, Device::Cpu));
            let draw = noising(objective, cap).draw(&x0, 3, 0, true).expect("a draw");
            let answer = Tensor::randn([3, 1, 4, 4], (Kind::Float, Device::Cpu));
            let (_, gradient) = draw.loss(&answer, 3).expect("a loss");
            let answer = answer.set_requires_grad(true);
            let (loss, _) = draw.loss(&answer, 3).expect("a loss");
            loss.backward();
            assert!(largest(answer.grad() - gradient) < 1e-6);
        }
    }

    #[test]
    fn grey_levels_become_numbers_between_minus_one_and_one() {
        let noising = noising(Objective::Eps, None);
        let grey = Tensor::from_slice(&[0u8, 255]).view([2, 1, 1, 1]);
        let x = noising.images(&grey).expect("images");
        assert_eq!(Vec::<f32>::try_from(x.view(-1)).expect("values"), [-1.0, 1.0]);
        assert!(noising.images(&Tensor::from_slice(&[1i64]).view([1, 1, 1, 1])).is_err());
        assert!(noising.images(&Tensor::from_slice(&[1f32])).is_err());
    }
}
