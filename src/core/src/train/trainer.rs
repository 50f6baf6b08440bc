//! The loop itself.

use std::sync::Arc;
use std::time::Instant;

use tch::{Device, Kind, Tensor};

use super::flat::Flat;
use super::noising::Noising;
use super::optim::{clip_factor, decay_after_warmup, AdamW, State};
use super::queued::{Graphs, Numbers, Queue, Taken};
use super::scaler::MAX_CONSECUTIVE_SKIPS;
use super::{Batch, EpochReport, Host, Options, Position, StepReport};
use crate::diffusion::schedule::Schedule;
use crate::error::{ensure, Error, Result};
use crate::nn::differentiable::{differentiable, Differentiable};
use crate::nn::{Blueprint, Precision};

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
    /// `state` holds the tensors that training changes in place; `position` is where it begins. usual work is
    /// captured in `graphs`, if updates are queued at all.
    pub fn new(
        blueprint: &Arc<Blueprint>,
        state: State,
        schedule: &Schedule,
        options: Options,
        position: Position,
        graphs: Graphs,
    ) -> Result<Self> {
        state.check(&blueprint.shapes)?;
        let device = state.weights[0].device();
        let queue = if options.queued {
            let [gradients, update] = graphs;
            // processes draw dropout from seeds that the host makes for each batch
            let gradients = gradients.filter(|_| options.processes == 1);
            Some(Queue::new(Numbers::new(&position, options.precision, device)?, [gradients, update]))
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

    /// What was derived from the weights, and what was captured, knows them by their place.
    fn check_places(&mut self, before: &[usize]) -> Result<()> {
        if self.state.places() == before {
            return Ok(());
        }
        self.broken = true;
        Err(Error::Runtime(
            "the memory of the weights or of their averages was replaced after an epoch (a callback that moves or \
             converts the model itself, as .cpu() and .to() do?); work on a copy: copy.deepcopy(info.ema.shadow).cpu()"
                .into(),
        ))
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
                if self.enough()? {
                    return host.stopped(&self.position, false);
                }
            }
            let (epoch, loss, rate) = self.finish_epoch()?;
            let places = self.state.places();
            let go_on = host.end_epoch(&EpochReport {
                epoch,
                loss,
                rate,
                images_per_second: clock.images_per_second(),
                position: &self.position,
            })?;
            if !go_on || self.position.epoch >= self.options.epochs {
                break;
            }
            self.check_places(&places)?;
        }
        Ok(())
    }

    /// Whether the updates asked for are made.
    fn enough(&mut self) -> Result<bool> {
        let Some(most) = self.options.max_steps else { return Ok(false) };
        if self.position.updates >= most {
            self.settle()?;
        }
        Ok(self.position.updates >= most)
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
        let Some(taken) = self.gather(host, None)? else { return Ok(None) };
        let loss = self.reduce(host, &taken)?;
        self.broken = true;
        self.update(&taken, loss)?;
        self.broken = false;
        Ok(Some(Made { images: taken.images, loss: Some(loss) }))
    }

    /// The same without waiting for the device.
    fn queue_update(&mut self, host: &mut dyn Host, queue: &mut Queue) -> Result<Option<Made>> {
        if self.options.precision == Precision::Fp16 && self.options.rate.rises(self.position.updates) {
            self.look(queue)?;
        }
        let decay = self.ema_decay();
        queue.numbers.set(self.rate(), decay)?;
        let Some(taken) = self.gather(host, Some(queue))? else { return Ok(None) };
        if self.options.processes > 1 {
            host.all_reduce(self.grads.all())?;
        }
        self.broken = true;
        let Self { state, grads, adamw, options, net, .. } = self;
        queue.update(taken, |numbers| {
            numbers.update(state, grads, adamw, taken.mean(), taken.batches, options)?;
            net.weights_changed()
        })?;
        self.broken = false;
        self.position.updates += 1;
        self.advance(&taken, None, decay);
        Ok(Some(Made { images: taken.images, loss: None }))
    }

    /// Waits for queued updates, takes over their numbers, and gives the last loss.
    fn settle(&mut self) -> Result<f64> {
        let Some(mut queue) = self.queue.take() else { return Ok(f64::NAN) };
        let loss = self.look(&mut queue);
        self.queue = Some(queue);
        loss
    }

    fn look(&mut self, queue: &mut Queue) -> Result<f64> {
        let seen = queue.numbers.read()?;
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

    /// Forward and backward for each batch of an update. Gradients are those of the mean over the first batch's size.
    fn gather(&mut self, host: &mut dyn Host, mut queue: Option<&mut Queue>) -> Result<Option<Taken>> {
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
            let reference = taken.reference;
            match &mut queue {
                Some(queue) => queue.gradients(batch, reference, |batch, numbers| {
                    self.accumulate(batch, reference, numbers.scale()?.as_ref())
                })?,
                None => {
                    let scale = self.scale().map(|scale| Tensor::from(scale as f32));
                    self.accumulate(&batch, reference, scale.as_ref())?;
                }
            }
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

    /// `scale` is for the gradient, not for the loss.
    fn accumulate(&mut self, batch: &Batch, reference: i64, scale: Option<&Tensor>) -> Result<()> {
        let x0 = self.noising.images(&batch.images)?;
        let draw = self.noising.draw(&x0, batch.total, batch.first, self.options.flip)?;
        let streams = self.part_streams()?;
        if draw.images() > 0 {
            let prediction = self.net.forward(&draw.x_t, &draw.t)?;
            let (loss, mut gradient) = draw.loss(&prediction, reference)?;
            self.grads.add_extra(&loss)?;
            if let Some(scale) = scale {
                let _ = gradient.f_mul_(scale)?;
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
        let loss = self.grads.extra()? * taken.mean();
        if !loss.is_finite() && self.options.precision != Precision::Fp16 {
            self.broken = true;
            return Err(self.not_finite("the loss", loss));
        }
        Ok(loss)
    }

    fn update(&mut self, taken: &Taken, loss: f64) -> Result<()> {
        let norm_scale = taken.mean() / self.scale().unwrap_or(1.0);
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
