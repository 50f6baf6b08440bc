//! One update: gradients of its batches, a look at them, and the change of the weights.

use tch::{Device, Kind, Tensor};

use super::counters::DeviceCounters;
use super::host::Gathered;
use super::noising::Noising;
use super::optim::{clip_factor, AdamW, Step, TrainingTensors};
use super::{Batch, Host, Length, Position, Settings, Trainer};
use crate::diffusion::Schedule;
use crate::error::{ensure, Result};
use crate::flat::Flat;
use crate::nn::differentiable::Differentiable;
use crate::nn::Precision;

/// A network, and what its gradients and its updates need.
pub struct Learner {
    net: Box<dyn Differentiable + Send>,
    noising: Noising,
    adamw: AdamW,
    pub tensors: TrainingTensors,
    pub grads: Flat,
    settings: Settings,
}

/// What the host found in the gradients.
pub enum Found {
    /// The weights were changed.
    Healthy,
    /// Something was not finite: what, and its value.
    NotFinite(&'static str, f64),
}

impl Learner {
    pub fn new(
        net: Box<dyn Differentiable + Send>,
        tensors: TrainingTensors,
        schedule: &Schedule,
        settings: Settings,
    ) -> Result<Self> {
        let device = tensors.device();
        Ok(Self {
            net,
            noising: Noising::new(schedule, settings.objective, settings.min_snr_gamma, device)?
                .with_times(settings.time_sampling),
            adamw: AdamW::new(settings.weight_decay),
            // one more number: the loss, so that it travels with the gradients
            grads: Flat::zeros(&tensors.shapes(), 1, device)?,
            tensors,
            settings,
        })
    }

    /// The length of a run that was open until now.
    pub fn settle(&mut self, length: Length) {
        self.settings.close(length);
    }

    /// Adds a batch's gradients, those of the mean over `reference` images; `scale` is for them, not for the loss.
    pub fn add_gradients(&mut self, batch: &Batch, reference: i64, scale: Option<&Tensor>) -> Result<()> {
        let x0 = self.noising.images(&batch.images)?;
        let noised = self.noising.draw(&x0, batch.total, batch.first, self.settings.horizontal_flip)?;
        let streams = self.part_streams()?;
        if noised.images() > 0 {
            let prediction = self.net.forward(&noised.x_t, &noised.t)?;
            let (loss, mut gradient) = noised.loss(&prediction, reference)?;
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
        if self.settings.processes == 1 || self.settings.dropout == 0.0 {
            return Ok(None);
        }
        let seeds = Tensor::f_randint(i64::MAX / 2, [2], (Kind::Int64, Device::Cpu))?;
        tch::manual_seed(seeds.f_int64_value(&[0])? + self.settings.rank);
        Ok(Some(seeds.f_int64_value(&[1])?))
    }

    /// The mean loss of the update's batches.
    pub fn loss(&self, gathered: &Gathered) -> Result<f64> {
        // the sum is in units of the first batch's size, see `add_gradients`
        Ok(self.grads.extra()? * gathered.mean())
    }

    /// The update as the host sees it: what is not finite is left out, or with float16 makes the loss scale fall.
    pub fn update(&mut self, gathered: &Gathered, loss: f64, position: &mut Position) -> Result<Found> {
        let half = self.settings.precision == Precision::Fp16;
        let norm_scale = gathered.mean() / if half { position.scaler.scale } else { 1.0 };
        let norm = self.grads.norm()? * norm_scale;
        let healthy = norm.is_finite() && loss.is_finite();
        if half {
            position.scaler.update(healthy);
            if position.scaler.gave_up() {
                return Ok(Found::NotFinite("the loss or its gradient", loss));
            }
        } else if !healthy {
            return Ok(Found::NotFinite("the norm of the gradient", norm));
        }
        let decay = self.settings.decay_at(position);
        if !healthy {
            position.skipped += 1;
            self.tensors.average(decay)?;
            return Ok(Found::Healthy);
        }
        let rate = self.settings.rate_at(position.epoch, position.updates);
        let factor = norm_scale * clip_factor(norm, self.settings.grad_clip);
        position.updates += 1;
        let step = Step { number: position.updates, factor, rate, decay };
        self.adamw.step(&mut self.tensors, &mut self.grads, &step)?;
        self.net.weights_changed()?;
        Ok(Found::Healthy)
    }

    /// The same without a word to the host.
    pub fn update_on_device(&mut self, gathered: &Gathered, counters: &mut DeviceCounters) -> Result<()> {
        counters.update(&mut self.tensors, &mut self.grads, &self.adamw, gathered, &self.settings)?;
        self.net.weights_changed()
    }
}

impl Trainer {
    /// One update: its images, and its loss if the host knows it; None when no batch was left.
    pub(super) fn update(&mut self, host: &mut dyn Host) -> Result<Option<(i64, Option<f64>)>> {
        self.prepare_queue()?;
        let gathered = self.gather(host);
        let Some(gathered) = self.together(host, gathered)? else { return Ok(None) };
        if self.settings.processes > 1 {
            host.all_reduce(self.learner.grads.all())?;
        }
        let decay = self.settings.decay_at(&self.position);
        self.broken = true;
        let loss = self.change_weights(&gathered)?;
        self.broken = false;
        self.advance(&gathered, loss, decay);
        Ok(Some((gathered.images, loss)))
    }

    /// Tells the device what the next update is made with.
    fn prepare_queue(&mut self) -> Result<()> {
        let half = self.settings.precision == Precision::Fp16;
        if half && self.settings.rate_moves(self.position.updates) {
            self.settle()?; // how many updates there were, only the device knows
        }
        let rate = self.settings.rate_at(self.position.epoch, self.position.updates);
        let decay = self.settings.decay_at(&self.position);
        match &mut self.queue {
            Some(queue) => queue.counters.set(rate, decay),
            None => Ok(()),
        }
    }

    fn change_weights(&mut self, gathered: &Gathered) -> Result<Option<f64>> {
        let Self { learner, queue, position, .. } = self;
        if let Some(queue) = queue {
            queue.update(*gathered, |counters| learner.update_on_device(gathered, counters))?;
            position.updates += 1;
            return Ok(None);
        }
        let loss = learner.loss(gathered)?;
        if !loss.is_finite() && self.settings.precision != Precision::Fp16 {
            return Err(self.not_finite("the loss", loss));
        }
        match learner.update(gathered, loss, position)? {
            Found::Healthy => Ok(Some(loss)),
            Found::NotFinite(what, value) => Err(self.not_finite(what, value)),
        }
    }

    /// Gradients of each batch of an update. They are those of the mean over the first batch's size.
    fn gather(&mut self, host: &mut dyn Host) -> Result<Option<Gathered>> {
        self.learner.grads.clear()?;
        let mut gathered = Gathered::default();
        for k in 0..self.settings.accumulate {
            let Some(batch) = host.next_batch(k == 0)? else {
                break;
            };
            self.check_batch(&batch, gathered.batches)?;
            gathered.batches += 1;
            gathered.images += batch.total;
            if gathered.batches == 1 {
                gathered.reference = batch.total;
            }
            self.add_gradients(batch, gathered.reference)?;
        }
        Ok((gathered.batches > 0).then_some(gathered))
    }

    fn check_batch(&self, batch: &Batch, gathered: i64) -> Result<()> {
        ensure!(
            batch.total > 0,
            Value,
            "data gave a batch without images in epoch {}, batch {}",
            self.position.epoch + 1,
            self.position.batch + gathered + 1
        );
        Ok(())
    }

    fn add_gradients(&mut self, batch: Batch, reference: i64) -> Result<()> {
        let Self { learner, queue, position, .. } = self;
        if let Some(queue) = queue {
            return queue.gradients(batch, reference, |batch, counters| {
                learner.add_gradients(batch, reference, counters.scale()?.as_ref())
            });
        }
        let half = self.settings.precision == Precision::Fp16;
        let scale = half.then(|| Tensor::from(position.scaler.scale as f32));
        learner.add_gradients(&batch, reference, scale.as_ref())
    }

    /// `loss` is None where the device keeps it and its sum; one that is not finite does not count.
    fn advance(&mut self, gathered: &Gathered, loss: Option<f64>, decay: f64) {
        let position = &mut self.position;
        position.averaged += 1;
        position.initial_share *= decay;
        position.batch += gathered.batches;
        if loss.is_none_or(f64::is_finite) {
            position.loss_sum += loss.unwrap_or(0.0) * gathered.batches as f64;
            position.losses += gathered.batches;
        }
    }
}
