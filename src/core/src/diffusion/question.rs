//! How a network is asked about noisy images, and what its answer says of them, whatever it was trained for.

use tch::{Kind, Tensor};

use super::objective::{Objective, FLOW_TIME};
use super::process::{check_batch, check_float, check_same, Denoised, Mixing};
use crate::error::{ensure, Error, Result};

/// Noisy images as a network of some objective is asked about them.
pub struct Question {
    /// What the network is shown: images, and the time of each.
    pub shown: Tensor,
    pub t: Tensor,
    x: Tensor,
    mixing: Mixing,
    objective: Objective,
}

impl Question {
    /// About images `x` at timesteps `t` of a schedule. For "flow", floating-point times are those of its own straight path, which
    /// has no schedule.
    pub fn new(x: &Tensor, t: &Tensor, alpha_bars: Option<&Tensor>, objective: Objective) -> Result<Self> {
        check_float(x, "x")?;
        if objective == Objective::Flow && check_float(t, "t").is_ok() {
            return Self::on_straight_path(x, t);
        }
        check_batch(x, "x", t)?;
        let alpha_bars = alpha_bars.ok_or_else(|| Error::Value(without_schedule(objective)))?;
        let mixing = Mixing::at(alpha_bars, t, &x.size())?;
        let (shown, t) = match objective {
            Objective::Flow => {
                let whole = mixing.signal.f_add(&mixing.spread)?;
                let time = mixing.spread.f_div(&whole)?.f_mul_scalar(FLOW_TIME)?.f_view([-1])?;
                (x.f_div(&whole)?, time.f_to_kind(Kind::Float)?)
            }
            _ => (x.shallow_clone(), t.shallow_clone()),
        };
        Ok(Self { shown, t, x: x.shallow_clone(), mixing, objective })
    }

    fn on_straight_path(x: &Tensor, t: &Tensor) -> Result<Self> {
        let (size, times) = (x.size(), t.size());
        ensure!(
            times.len() == 1 && !size.is_empty() && (times[0] == size[0] || times[0] == 1),
            Value,
            "t must have shape (B,), one time per image of x {size:?}, got {times:?}"
        );
        let (low, high) = t.f_aminmax(None::<i64>, false)?;
        let (low, high) = (low.f_double_value(&[])?, high.f_double_value(&[])?);
        ensure!(
            low >= 0.0 && high <= FLOW_TIME,
            Value,
            "t must lie in 0..{FLOW_TIME}, a thousand times the share of noise, got values from {low} to {high}"
        );
        let mixing = Mixing::straight(t, &size)?;
        Ok(Self {
            shown: x.shallow_clone(),
            t: t.shallow_clone(),
            x: x.shallow_clone(),
            mixing,
            objective: Objective::Flow,
        })
    }

    /// What the network's answer says, nothing clamped.
    pub fn read(&self, answer: &Tensor) -> Result<Denoised> {
        check_same(&self.x, "x", answer, "what model returned")?;
        self.mixing.read(self.objective, &self.x, answer, false)
    }
}

fn without_schedule(objective: Objective) -> String {
    let otherwise = match objective {
        Objective::Flow => ", or t as float times on the straight path",
        _ => "",
    };
    format!("alpha_bars: this model does not know the schedule it was trained with; give alpha_bars{otherwise}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choice::Choice;
    use tch::Device;

    fn draw() -> Tensor {
        Tensor::randn([3, 1, 4, 4], (Kind::Float, Device::Cpu))
    }

    fn assert_says(said: Denoised, x0: &Tensor, eps: &Tensor) {
        for (got, want) in [(said.x0_hat, x0), (said.eps_hat, eps)] {
            assert!(f64::try_from((got - want).abs().max()).expect("a number") < 1e-5);
        }
    }

    #[test]
    fn every_objective_is_asked_in_its_own_terms_and_says_the_same() {
        let alpha_bars = Tensor::from_slice(&[0.9f32, 0.5, 0.1]);
        let (x0, eps, t) = (draw(), draw(), Tensor::from_slice(&[0i64, 1, 2]));
        let mixing = Mixing::at(&alpha_bars, &t, &x0.size()).expect("coefficients");
        let x = mixing.noised(&x0, &eps).expect("x");
        for (_, objective) in Objective::ALL {
            let question = Question::new(&x, &t, Some(&alpha_bars), *objective).expect("a question");
            let answer = match objective {
                Objective::Flow => {
                    let straight = Mixing::straight(&question.t, &x.size()).expect("coefficients");
                    let shown = straight.noised(&x0, &eps).expect("images");
                    assert!(f64::try_from((shown - &question.shown).abs().max()).expect("a number") < 1e-5);
                    &eps - &x0
                }
                _ => mixing.target(*objective, &x0, &eps).expect("a target"),
            };
            assert_says(question.read(&answer).expect("a reading"), &x0, &eps);
        }
    }

    #[test]
    fn float_times_are_those_of_a_straight_path() {
        let (x0, eps, t) = (draw(), draw(), Tensor::from_slice(&[1000f32, 250.0, 0.0]));
        let x = Mixing::straight(&t, &x0.size()).and_then(|mixing| mixing.noised(&x0, &eps)).expect("x");
        let question = Question::new(&x, &t, None, Objective::Flow).expect("a question");
        assert!(question.shown == x && question.t == t);
        assert_says(question.read(&(&eps - &x0)).expect("a reading"), &x0, &eps);
    }

    #[test]
    fn what_is_missing_or_out_of_range_is_named() {
        let (x, t) = (draw(), Tensor::from_slice(&[0i64, 1, 2]));
        let said = |t: &Tensor, objective| {
            Question::new(&x, t, None, objective).err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert!(said(&t, Objective::V).contains("alpha_bars"));
        assert!(said(&t, Objective::Flow).contains("float times"));
        assert!(said(&Tensor::from_slice(&[0f32, 1.0, 1001.0]), Objective::Flow).contains("0..1000"));
        assert!(said(&Tensor::from_slice(&[0f32, 1.0]), Objective::Flow).contains("one time per image"));
        assert!(said(&t.to_kind(Kind::Float), Objective::V).contains("integers"));
    }
}
