//! Updates whose numbers stay on the accelerator. The host only queues work and reads nothing back until somebody wants
//! to see how the run goes; an update of one whole batch is the same work each time and so can be recorded.

use tch::{Device, Kind, Tensor};

use super::flat::Flat;
use super::optim::{AdamW, State};
use super::{Batch, Options};
use crate::error::Result;
use crate::graph::{Recorder, Recording};
use crate::libtorch::{move_each_towards, OnDevice};

/// Places of the numbers that the device keeps for the host.
const FAILED: i64 = 0;
const LOSS: i64 = 1;
const LOSS_SUM: i64 = 2;

/// What the device knows when it is asked.
pub struct Seen {
    /// Updates that were left out because the loss or its gradient was not finite.
    pub failed: f64,
    /// The last one.
    pub loss: f64,
    /// Of the epoch.
    pub loss_sum: f64,
}

/// The numbers of an update that change from one to the next, and those that it leaves behind, all on the device.
pub struct Numbers {
    rate: Tensor,
    /// 1 - decay of the averaged weights.
    share: Tensor,
    /// Updates made, counted as AdamW does.
    updates: Tensor,
    seen: Tensor,
}

impl Numbers {
    pub fn new(updates: i64, loss_sum: f64, device: Device) -> Result<Self> {
        let number = |value: f64| Tensor::f_full([] as [i64; 0], value, (Kind::Float, device));
        let seen = Tensor::f_from_slice(&[0.0, 0.0, loss_sum])?.f_to_device(device)?;
        Ok(Self { rate: number(0.0)?, share: number(0.0)?, updates: number(updates as f64)?, seen })
    }

    /// Before each update.
    pub fn set(&mut self, rate: f64, decay: f64) -> Result<()> {
        let _ = self.rate.f_fill_(rate)?;
        let _ = self.share.f_fill_(1.0 - decay)?;
        Ok(())
    }

    pub fn begin_epoch(&mut self) -> Result<()> {
        let _ = self.seen.f_get(LOSS_SUM)?.f_zero_()?;
        Ok(())
    }

    /// Waits for the device.
    pub fn read(&self) -> Result<Seen> {
        let values = Vec::<f64>::try_from(&self.seen)?;
        let [failed, loss, loss_sum] = [FAILED, LOSS, LOSS_SUM].map(|place| values[place as usize]);
        Ok(Seen { failed, loss, loss_sum })
    }

    /// One update with the gradient `grads / images`, a sum over as many images in units of the first batch's mean
    /// (whose loss lies behind it); none at all if something in it is not finite.
    pub fn update(
        &mut self,
        state: &mut State,
        grads: &mut Flat,
        adamw: &AdamW,
        mean: f64,
        batches: i64,
        options: &Options,
    ) -> Result<()> {
        let loss = grads.extra_on_device()?.f_mul_scalar(mean)?;
        let norm = grads.parameters()?.f_norm()?.f_mul_scalar(mean)?;
        let failed = norm.f_add(&loss)?.f_isfinite()?.f_logical_not()?.f_to_kind(Kind::Float)?;
        let divisor = adamw.divisor(&norm, options.grad_clip)?.f_div_scalar(mean)?;
        let _ = self.updates.f_add_(&failed.f_neg()?.f_add_scalar(1.0)?)?;
        let numbers = OnDevice { rate: &self.rate, updates: &self.updates, divisor: &divisor, left_out: &failed };
        adamw.step_on_device(state, grads, &numbers)?;
        move_each_towards(&state.shadow, &state.weights, &self.share)?;
        let _ = self.seen.f_get(FAILED)?.f_add_(&failed)?;
        self.seen.f_get(LOSS)?.f_copy_(&loss)?;
        let _ = self.seen.f_get(LOSS_SUM)?.f_add_(&loss.f_mul_scalar(batches as f64)?)?;
        Ok(())
    }
}

/// The queue of updates: their numbers, and the recording of the usual one.
pub struct Queue {
    pub numbers: Numbers,
    recording: Recording,
    /// Where the batches of the recorded update lie.
    place: Option<Tensor>,
}

impl Queue {
    pub fn new(numbers: Numbers, recorder: Option<Box<dyn Recorder + Send>>) -> Self {
        Self { numbers, recording: Recording::new(recorder), place: None }
    }

    /// Calls `work` with the batch, or replays it if the batch is like those before it.
    pub fn run(&mut self, batch: Batch, mut work: impl FnMut(&Batch, &mut Numbers) -> Result<()>) -> Result<()> {
        let device = self.numbers.seen.device();
        let images = &batch.images;
        if self.place.is_none() {
            self.place = Some(images.f_empty_like()?.f_to_device(device)?);
        }
        let numbers = &mut self.numbers;
        match &mut self.place {
            Some(place) if place.size() == images.size() && place.kind() == images.kind() => {
                place.f_copy_(images)?;
                let batch = Batch { images: place.shallow_clone(), ..batch };
                self.recording.run(&mut || work(&batch, numbers))
            }
            _ => work(&batch, numbers),
        }
    }
}
