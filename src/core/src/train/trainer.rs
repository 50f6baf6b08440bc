//! The loop itself.

use std::sync::Arc;
use std::time::Instant;

use tch::{Device, Kind, Tensor};

use super::flat::Flat;
use super::noising::Noising;
use super::optim::{clip_factor, decay_after_warmup, AdamW, State};
use super::queued::{Numbers, Queue};
use super::scaler::MAX_CONSECUTIVE_SKIPS;
use super::{Batch, EpochReport, Host, Options, Position, StepReport};
use crate::error::{ensure, Error, Result};
use crate::graph::Recorder;
use crate::nn::model::{differentiable, Differentiable, Precision};
use crate::nn::Blueprint;
use crate::schedule::Schedule;

/// A network in training.
pub struct Trainer {
    options: Options,
    net: Box<dyn Differentiable + Send>,
    noising: Noising,
    adamw: AdamW,
    state: State,
    grads: Flat,
    position: Position,
    /// Where updates leave their numbers on the device; None: the host reads the loss of each.
    queue: Option<Queue>,
    /// An update has begun and its weights are not changed yet.
    within_step: bool,
    /// The weights cannot be trusted any more: not to be saved.
    broken: bool,
}

impl Trainer {
    /// `state` holds the tensors that training changes in place; `position` is where it begins. `recorder` is asked to
    /// record the usual update, if updates are queued at all.
    pub fn new(
        blueprint: &Arc<Blueprint>,
        state: State,
        schedule: &Schedule,
        options: Options,
        position: Position,
        recorder: Option<Box<dyn Recorder + Send>>,
    ) -> Result<Self> {
        state.check(&blueprint.shapes)?;
        let device = state.weights[0].device();
        // float16 has to look at each gradient: its scale depends on it
        let queue = if options.queued && options.precision != Precision::Fp16 {
            let numbers = Numbers::new(position.updates, position.loss_sum, device)?;
            Some(Queue::new(numbers, recorder))
        } else {
            None
        };
        let weights: Vec<Tensor> = state.weights.iter().map(Tensor::shallow_clone).collect();
        Ok(Self {
            net: differentiable(blueprint, weights, options.precision, options.dropout)?,
            noising: Noising::new(schedule, options.objective, options.min_snr, device)?,
            adamw: AdamW::new(options.weight_decay),
            // one more number: the loss, so that it travels with the gradients
            grads: Flat::zeros(&blueprint.shapes, 1, device)?,
            state,
            options,
            position,
            queue,
            within_step: false,
            broken: false,
        })
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
        while self.position.epoch < self.options.epochs {
            host.begin_epoch(&self.position)?;
            let mut clock = Clock::start();
            while self.step(host, &mut clock)? {
                if self.enough() {
                    self.settle()?;
                    return host.stopped(&self.position, false);
                }
            }
            let (epoch, loss, rate) = self.finish_epoch()?;
            let go_on = host.end_epoch(&EpochReport {
                epoch,
                loss,
                rate,
                images_per_second: clock.images_per_second(),
                position: &self.position,
            })?;
            if !go_on {
                break;
            }
        }
        Ok(())
    }

    fn enough(&self) -> bool {
        self.options.max_steps.is_some_and(|most| self.position.updates >= most)
    }

    /// One update; false when no batch was left for it.
    fn step(&mut self, host: &mut dyn Host, clock: &mut Clock) -> Result<bool> {
        self.within_step = true;
        let made = match self.queue.take() {
            Some(mut queue) => {
                let made = self.queue_update(host, &mut queue);
                self.queue = Some(queue);
                made?
            }
            None => self.update_now(host)?,
        };
        self.within_step = false;
        let Some(Made { images, loss }) = made else { return Ok(false) };
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

    fn update_now(&mut self, host: &mut dyn Host) -> Result<Option<Made>> {
        let Some(taken) = self.gather(host)? else { return Ok(None) };
        let loss = self.reduce(host, &taken)?;
        self.broken = true;
        self.update(&taken, loss)?;
        self.broken = false;
        Ok(Some(Made { images: taken.images, loss: Some(loss) }))
    }

    /// The same without waiting for the device.
    fn queue_update(&mut self, host: &mut dyn Host, queue: &mut Queue) -> Result<Option<Made>> {
        let decay = self.ema_decay();
        queue.numbers.set(self.rate(), decay)?;
        let taken = if self.options.accumulate == 1 && self.options.processes == 1 {
            let Some(batch) = host.next_batch(true)? else { return Ok(None) };
            self.check_batch(&batch, 0)?;
            let taken = Taken { batches: 1, images: batch.total, reference: batch.total };
            queue.run(batch, |batch, numbers| {
                self.broken = false;
                self.grads.clear()?;
                self.accumulate(batch, taken.reference)?;
                self.update_on_device(numbers, &taken)
            })?;
            taken
        } else {
            let Some(taken) = self.gather(host)? else { return Ok(None) };
            if self.options.processes > 1 {
                host.all_reduce(self.grads.all())?;
            }
            self.update_on_device(&mut queue.numbers, &taken)?;
            taken
        };
        self.position.updates += 1;
        self.advance(&taken, None, decay);
        Ok(Some(Made { images: taken.images, loss: None }))
    }

    fn update_on_device(&mut self, numbers: &mut Numbers, taken: &Taken) -> Result<()> {
        let mean = taken.reference as f64 / taken.images as f64;
        self.broken = true;
        numbers.update(&mut self.state, &mut self.grads, &self.adamw, mean, taken.batches, &self.options)?;
        self.net.weights_changed()?;
        self.broken = false;
        Ok(())
    }

    /// Waits for queued updates, takes over their numbers, and gives the last loss.
    fn settle(&mut self) -> Result<f64> {
        let Some(queue) = &self.queue else { return Ok(f64::NAN) };
        let seen = queue.numbers.read()?;
        if seen.failed > 0.0 {
            self.broken = true;
            return Err(self.diverged("the loss or its gradient was not finite in one of the last updates up to"));
        }
        self.position.loss_sum = seen.loss_sum;
        Ok(seen.loss)
    }

    /// Forward and backward for each batch of an update. Gradients are those of the mean over the first batch's size.
    fn gather(&mut self, host: &mut dyn Host) -> Result<Option<Taken>> {
        self.grads.clear()?;
        let mut taken = Taken::default();
        for k in 0..self.options.accumulate {
            let Some(batch) = host.next_batch(k == 0)? else {
                break;
            };
            self.check_batch(&batch, taken.batches)?;
            taken.batches += 1;
            taken.images += batch.total;
            if taken.batches == 1 {
                taken.reference = batch.total;
            }
            self.accumulate(&batch, taken.reference)?;
        }
        Ok((taken.batches > 0).then_some(taken))
    }

    fn check_batch(&self, batch: &Batch, taken: i64) -> Result<()> {
        ensure!(
            batch.total > 0,
            Value,
            "data gave a batch without images in epoch {}, batch {}",
            self.position.epoch,
            self.position.batch + taken
        );
        Ok(())
    }

    fn accumulate(&mut self, batch: &Batch, reference: i64) -> Result<()> {
        let x0 = self.noising.images(&batch.images)?;
        let draw = self.noising.draw(&x0, batch.total, batch.first, self.options.flip)?;
        let streams = self.part_streams()?;
        if draw.images() > 0 {
            let prediction = self.net.forward(&draw.x_t, &draw.t)?;
            let (loss, mut gradient) = draw.loss(&prediction, reference)?;
            self.grads.add_extra(&loss)?;
            if let Some(scale) = self.scale() {
                let _ = gradient.f_mul_scalar_(scale)?;
            }
            self.net.backward(&gradient, self.grads.views_mut())?;
        }
        if let Some(seed) = streams {
            tch::manual_seed(seed);
        }
        Ok(())
    }

    /// Processes draw the same timesteps and noise, but each its own dropout. Gives the seed to go on with together.
    fn part_streams(&self) -> Result<Option<i64>> {
        if self.options.processes == 1 || self.options.dropout == 0.0 {
            return Ok(None);
        }
        let seeds = Tensor::f_randint(i64::MAX / 2, [2], (Kind::Int64, Device::Cpu))?;
        tch::manual_seed(seeds.f_int64_value(&[0])? + self.options.rank);
        Ok(Some(seeds.f_int64_value(&[1])?))
    }

    fn scale(&self) -> Option<f64> {
        (self.options.precision == Precision::Fp16).then_some(self.position.scaler.scale)
    }

    /// The mean loss of the update's batches; afterwards every process has the same gradients.
    fn reduce(&mut self, host: &mut dyn Host, taken: &Taken) -> Result<f64> {
        if self.options.processes > 1 {
            host.all_reduce(self.grads.all())?;
        }
        // the sum is in units of the first batch's size, see `gather`
        let loss = self.grads.extra()? * taken.reference as f64 / taken.images as f64;
        if !loss.is_finite() && self.options.precision != Precision::Fp16 {
            self.broken = true;
            return Err(self.not_finite("the loss", loss));
        }
        Ok(loss)
    }

    fn update(&mut self, taken: &Taken, loss: f64) -> Result<()> {
        let norm_scale = taken.reference as f64 / taken.images as f64 / self.scale().unwrap_or(1.0);
        let norm = self.grads.norm()? * norm_scale;
        let healthy = norm.is_finite() && loss.is_finite();
        if self.options.precision == Precision::Fp16 {
            self.position.scaler.update(healthy);
            if self.position.scaler.skips_in_a_row > MAX_CONSECUTIVE_SKIPS {
                return Err(self.not_finite("the loss or its gradient", loss));
            }
        } else if !healthy {
            return Err(self.not_finite("the norm of the gradient", norm));
        }
        let decay = self.ema_decay();
        if healthy {
            let rate = self.rate();
            let step = self.position.updates + 1;
            let factor = norm_scale * clip_factor(norm, self.options.grad_clip);
            self.adamw.step(&mut self.state, &mut self.grads, factor, rate, step, decay)?;
            self.net.weights_changed()?;
            self.position.updates += 1;
        } else {
            self.state.average(decay)?;
            self.position.skipped += 1;
        }
        self.advance(taken, Some(loss), decay);
        Ok(())
    }

    /// `loss` is None where the device keeps it and its sum; one that is not finite does not count.
    fn advance(&mut self, taken: &Taken, loss: Option<f64>, decay: f64) {
        let position = &mut self.position;
        position.averaged += 1;
        position.initial_share *= decay;
        position.batch += taken.batches;
        if loss.is_none_or(f64::is_finite) {
            position.loss_sum += loss.unwrap_or(0.0) * taken.batches as f64;
            position.losses += taken.batches;
        }
    }

    fn ema_decay(&self) -> f64 {
        if self.options.ema_warmup {
            decay_after_warmup(self.options.ema_decay, self.position.averaged)
        } else {
            self.options.ema_decay
        }
    }

    fn rate(&self) -> f64 {
        self.options.rate.at(self.position.epoch, self.position.updates)
    }

    /// (epoch, mean loss, rate) of the epoch that is over; the position moves on to the next one.
    fn finish_epoch(&mut self) -> Result<(i64, f64, f64)> {
        self.settle()?;
        let epoch = self.position.epoch;
        ensure!(
            self.position.batch > 0,
            Value,
            "data gave no batch in epoch {epoch}; it must give its batches anew in every epoch (an iterator can be read only once)"
        );
        if self.position.losses == 0 {
            self.broken = true;
            return Err(self.not_finite("every loss", f64::NAN));
        }
        let rate = self.options.rate.at(epoch, (self.position.updates - 1).max(0));
        let loss = self.position.loss_sum / self.position.losses as f64;
        let position = &mut self.position;
        (position.epoch, position.batch) = (epoch + 1, 0);
        (position.loss_sum, position.losses) = (0.0, 0);
        if let Some(queue) = &mut self.queue {
            queue.numbers.begin_epoch()?;
        }
        Ok((epoch, loss, rate))
    }

    fn not_finite(&self, what: &str, value: f64) -> Error {
        self.diverged(&format!("{what} is {value} in"))
    }

    fn diverged(&self, what: &str) -> Error {
        Error::Runtime(format!(
            "{what} epoch {}, step {} (both counted from 0): training has diverged, or the data hold NaN or infinity. \
             A lower learning_rate or a smaller grad_clip may help. Files written before are good.",
            self.position.epoch, self.position.batch
        ))
    }
}

/// What an update was made of.
#[derive(Default)]
struct Taken {
    batches: i64,
    images: i64,
    /// Size of the first batch, the unit of the gradients while they are summed.
    reference: i64,
}

/// An update that was made; its loss, if the host knows it.
struct Made {
    images: i64,
    loss: Option<f64>,
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
