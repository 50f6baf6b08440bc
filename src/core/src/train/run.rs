//! The loop itself.

use std::time::Instant;

use super::counters::DeviceCounters;
use super::optim::TrainingTensors;
use super::queue::{Graphs, Queue};
use super::update::Learner;
use super::{EpochReport, Host, Position, Settings, StepReport, MAX_CONSECUTIVE_SKIPS};
use crate::diffusion::Schedule;
use crate::error::{ensure, Error, Result};
use crate::nn::differentiable::Differentiable;

/// A run of training.
pub struct Trainer {
    pub(super) settings: Settings,
    pub(super) learner: Learner,
    pub(super) position: Position,
    /// Where updates leave their numbers on the device; None: the host reads the loss of each.
    pub(super) queue: Option<Queue>,
    /// An update has begun and its weights are not changed yet.
    within_step: bool,
    /// The weights cannot be trusted any more: not to be saved.
    pub(super) broken: bool,
}

impl Trainer {
    /// `net` computes with the very weights in `tensors`; `position` is where the run begins. Usual work is captured in
    /// `graphs`, if updates are queued at all.
    pub fn new(
        net: Box<dyn Differentiable + Send>,
        tensors: TrainingTensors,
        schedule: &Schedule,
        settings: Settings,
        position: Position,
        [gradients, update]: Graphs,
    ) -> Result<Self> {
        let queue = if settings.queued {
            // processes draw dropout from seeds that the host makes for each batch
            let gradients = gradients.filter(|_| settings.processes == 1);
            let counters = DeviceCounters::new(&position, settings.precision, tensors.device())?;
            Some(Queue::new(counters, [gradients, update]))
        } else {
            None
        };
        let learner = Learner::new(net, tensors, schedule, settings.clone())?;
        Ok(Self { settings, learner, position, queue, within_step: false, broken: false })
    }

    /// Train to the end, or until the host or the data say otherwise.
    pub fn run(&mut self, host: &mut dyn Host) -> Result<()> {
        let _guard = tch::no_grad_guard();
        let outcome = self.epochs(host);
        if outcome.is_err() && !self.broken {
            self.settle()?;
            host.stopped(&self.position, self.within_step)?;
        }
        outcome
    }

    fn epochs(&mut self, host: &mut dyn Host) -> Result<()> {
        while !self.over() {
            let begun = host.begin_epoch(&self.position);
            self.together(host, begun)?;
            let mut clock = Clock::start();
            let mut ended = false;
            while self.step(host, &mut clock)? {
                self.settle_length(host)?;
                if self.enough()? {
                    ended = true;
                    break;
                }
            }
            if ended && !self.settings.ends_planned() {
                return host.stopped(&self.position, false);
            }
            let places = self.learner.tensors.places();
            if !self.end_epoch(host, &clock)? || ended || self.over() {
                break;
            }
            self.check_places(&places)?;
        }
        Ok(())
    }

    /// Asks the host for the length of a run that is open.
    fn settle_length(&mut self, host: &mut dyn Host) -> Result<()> {
        if !self.settings.open {
            return Ok(());
        }
        self.settle()?;
        if let Some(length) = host.settle(&self.position)? {
            self.settings.close(length);
            self.learner.settle(length);
        }
        Ok(())
    }

    /// Whether all epochs are done.
    fn over(&self) -> bool {
        !self.settings.open && self.position.epoch >= self.settings.epochs
    }

    /// Whether the updates asked for are made.
    fn enough(&mut self) -> Result<bool> {
        let Some(most) = self.settings.max_steps else { return Ok(false) };
        if self.position.updates >= most {
            self.settle()?;
        }
        Ok(self.position.updates >= most)
    }

    /// One update, and a word of it to the host; false when no batch was left for it.
    fn step(&mut self, host: &mut dyn Host, clock: &mut Clock) -> Result<bool> {
        self.within_step = true;
        let made = self.update(host)?;
        self.within_step = false;
        let Some((images, loss)) = made else { return Ok(false) };
        clock.images += images;
        if host.watch()? {
            let loss = match loss {
                Some(loss) => loss,
                None => self.settle()?,
            };
            let images_per_second = clock.images_per_second();
            host.step_done(&StepReport { position: &self.position, loss, images_per_second })?;
        }
        Ok(true)
    }

    /// `outcome`, if it is well on every process: what failed on one ends the run on all of them at the same place.
    pub(super) fn together<T>(&self, host: &mut dyn Host, outcome: Result<T>) -> Result<T> {
        if self.settings.processes == 1 {
            return outcome;
        }
        let agreed = host.agree(outcome.as_ref().err());
        let value = outcome?;
        agreed.map(|()| value)
    }

    /// Waits for queued updates, takes over their numbers, and gives the last loss.
    pub(super) fn settle(&mut self) -> Result<f64> {
        let Some(queue) = &mut self.queue else { return Ok(f64::NAN) };
        let seen = queue.counters.read()?;
        let position = &mut self.position;
        position.loss_sum = seen.loss_sum;
        position.losses -= seen.uncounted;
        let too_many = match seen.scaler {
            Some((scaler, skips)) => {
                position.scaler = scaler;
                position.updates -= seen.failed;
                position.skipped += seen.failed;
                skips > MAX_CONSECUTIVE_SKIPS
            }
            None => seen.failed > 0,
        };
        if too_many {
            self.broken = true;
            return Err(self.diverged("the loss or its gradient was not finite in one of the last updates up to"));
        }
        Ok(seen.loss)
    }

    /// The position moves on to the next epoch, and the host hears of this one; false ends the run.
    fn end_epoch(&mut self, host: &mut dyn Host, clock: &Clock) -> Result<bool> {
        let (epoch, loss, rate) = self.finish_epoch()?;
        let images_per_second = clock.images_per_second();
        let go_on = host.end_epoch(&EpochReport { epoch, loss, rate, images_per_second, position: &self.position });
        self.together(host, go_on)
    }

    /// (epoch, mean loss, rate) of the epoch that is over.
    fn finish_epoch(&mut self) -> Result<(i64, f64, f64)> {
        self.settle()?;
        let epoch = self.position.epoch;
        ensure!(
            self.position.batch > 0,
            Value,
            "data gave no batch in epoch {}; it must give its batches anew in every epoch (an iterator can be read only once)",
            epoch + 1
        );
        if self.position.losses == 0 {
            self.broken = true;
            return Err(self.not_finite("every loss", f64::NAN));
        }
        let rate = self.settings.rate_at(epoch, (self.position.updates - 1).max(0));
        let loss = self.position.mean_loss();
        let position = &mut self.position;
        (position.epoch, position.batch) = (epoch + 1, 0);
        (position.loss_sum, position.losses) = (0.0, 0);
        if let Some(queue) = &mut self.queue {
            queue.counters.begin_epoch()?;
        }
        Ok((epoch, loss, rate))
    }

    /// What was derived from the weights, and what was captured, knows them by their place.
    fn check_places(&mut self, before: &[usize]) -> Result<()> {
        if self.learner.tensors.places() == before {
            return Ok(());
        }
        self.broken = true;
        Err(Error::Runtime(
            "the memory of the weights or of their averages was replaced after an epoch (a callback that moves or \
             converts the model itself, as .cpu() and .to() do?); work on a copy: copy.deepcopy(info.ema.shadow).cpu()"
                .into(),
        ))
    }

    pub(super) fn not_finite(&self, what: &str, value: f64) -> Error {
        self.diverged(&format!("{what} is {value} in"))
    }

    fn diverged(&self, what: &str) -> Error {
        Error::Runtime(format!(
            "{what} epoch {}, step {}: training has diverged, or the data hold NaN or infinity. \
             A lower learning_rate or a smaller grad_clip may help. Files written before are good.",
            self.position.epoch + 1,
            self.position.batch + 1
        ))
    }
}

struct Clock {
    began: Instant,
    images: i64,
}

impl Clock {
    fn start() -> Self {
        Self { began: Instant::now(), images: 0 }
    }

    fn images_per_second(&self) -> f64 {
        self.images as f64 / self.began.elapsed().as_secs_f64().max(1e-9)
    }
}
