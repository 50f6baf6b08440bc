//! Updates whose numbers stay on the accelerator. The host only queues work and reads nothing back until somebody wants
//! to see how the run goes; the gradients of a batch and the update itself are the same work each time and so can be
//! captured.

use tch::{Device, Kind, Tensor};

use super::flat::Flat;
use super::optim::{AdamW, State};
use super::scaler::DeviceScaler;
use super::{Batch, LossScaler, Options, Position};
use crate::device::{Capture, Graph};
use crate::error::Result;
use crate::libtorch::{move_each_towards, OnDevice};
use crate::nn::Precision;

/// Places of the numbers that the device keeps for the host.
const FAILED: i64 = 0;
const UNCOUNTED: i64 = 1;
const LOSS: i64 = 2;
const LOSS_SUM: i64 = 3;

/// What the device knows when it is asked.
pub struct Seen {
    /// Updates since the last look that were left out because the loss or its gradient was not finite.
    pub failed: i64,
    /// Losses since then that were not finite; they are not in the sum.
    pub uncounted: i64,
    /// The last one.
    pub loss: f64,
    /// Of the epoch.
    pub loss_sum: f64,
    /// With float16: the scaler, and the longest row of updates that it left out.
    pub scaler: Option<(LossScaler, i64)>,
}

/// The numbers of an update that change from one to the next, and those that it leaves behind, all on the device.
pub struct Numbers {
    rate: Tensor,
    /// 1 - decay of the averaged weights.
    share: Tensor,
    /// Updates made, counted as AdamW does.
    updates: Tensor,
    /// With float16.
    scaler: Option<DeviceScaler>,
    seen: Tensor,
}

impl Numbers {
    pub fn new(position: &Position, precision: Precision, device: Device) -> Result<Self> {
        let number = |value: f64| Tensor::f_full([] as [i64; 0], value, (Kind::Float, device));
        let scaler = match precision {
            Precision::Fp16 => Some(DeviceScaler::new(&position.scaler, device)?),
            _ => None,
        };
        let seen = Tensor::f_from_slice(&[0.0, 0.0, 0.0, position.loss_sum])?.f_to_device(device)?;
        let updates = number(position.updates as f64)?;
        Ok(Self { rate: number(0.0)?, share: number(0.0)?, updates, scaler, seen })
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

    /// What to multiply losses with, with float16.
    pub fn scale(&self) -> Result<Option<Tensor>> {
        self.scaler.as_ref().map(DeviceScaler::scale).transpose()
    }

    /// Waits for the device.
    pub fn read(&mut self) -> Result<Seen> {
        let values = Vec::<f64>::try_from(&self.seen)?;
        let [failed, uncounted, loss, loss_sum] = [FAILED, UNCOUNTED, LOSS, LOSS_SUM].map(|at| values[at as usize]);
        for place in [FAILED, UNCOUNTED] {
            let _ = self.seen.f_get(place)?.f_zero_()?;
        }
        let scaler = self.scaler.as_ref().map(DeviceScaler::read).transpose()?;
        Ok(Seen { failed: failed as i64, uncounted: uncounted as i64, loss, loss_sum, scaler })
    }

    /// One update with the gradient `grads / images`, a sum over as many images in units of the first batch's mean
    /// (whose loss lies behind it); the weights stay as they are if something in it is not finite.
    pub fn update(
        &mut self,
        state: &mut State,
        grads: &mut Flat,
        adamw: &AdamW,
        mean: f64,
        batches: i64,
        options: &Options,
    ) -> Result<()> {
        let scale = self.scale()?;
        let loss = grads.extra_on_device()?.f_mul_scalar(mean)?;
        let mut norm = grads.parameters()?.f_norm()?.f_mul_scalar(mean)?;
        if let Some(scale) = &scale {
            norm = norm.f_div(scale)?;
        }
        let failed = norm.f_add(&loss)?.f_isfinite()?.f_logical_not()?.f_to_kind(Kind::Float)?;
        let mut divisor = adamw.divisor(&norm, options.grad_clip)?.f_div_scalar(mean)?;
        if let Some(scale) = &scale {
            divisor = divisor.f_mul(scale)?;
        }
        let _ = self.updates.f_add_(&failed.f_neg()?.f_add_scalar(1.0)?)?;
        let numbers = OnDevice { rate: &self.rate, updates: &self.updates, divisor: &divisor, left_out: &failed };
        adamw.step_on_device(state, grads, &numbers)?;
        move_each_towards(&state.shadow, &state.weights, &self.share)?;
        if let Some(scaler) = &mut self.scaler {
            scaler.update(&failed)?;
        }
        self.note(&failed, &loss, batches)
    }

    fn note(&mut self, failed: &Tensor, loss: &Tensor, batches: i64) -> Result<()> {
        let place = |place| self.seen.f_get(place);
        let lost = loss.f_isfinite()?.f_logical_not()?.f_to_kind(Kind::Double)?;
        let _ = place(FAILED)?.f_add_(failed)?;
        let _ = place(UNCOUNTED)?.f_add_(&lost.f_mul_scalar(batches as f64)?)?;
        place(LOSS)?.f_copy_(loss)?;
        let counted = loss.f_nan_to_num(0.0, 0.0, 0.0)?;
        let _ = place(LOSS_SUM)?.f_add_(&counted.f_mul_scalar(batches as f64)?)?;
        Ok(())
    }
}

/// Work that is captured for the case with the most images that came up first, and done directly in every other: the last
/// batch of an epoch is often shorter.
struct Usual<Case> {
    /// The case, and its images.
    case: Option<(Case, i64)>,
    capture: Capture,
}

impl<Case: Copy + PartialEq> Usual<Case> {
    fn new(graph: Option<Box<dyn Graph + Send>>) -> Self {
        Self { case: None, capture: Capture::new(graph) }
    }

    /// Whether this is the case to capture. One of more images takes the place of another that is not captured yet.
    fn is(&mut self, case: Case, images: i64) -> bool {
        if !self.capture.is_made() && self.case.is_none_or(|(_, most)| images > most) {
            self.case = Some((case, images));
            self.capture.begin_anew();
        }
        self.case == Some((case, images))
    }
}

/// The queue of updates: their numbers, and the captures of the usual ones.
pub struct Queue {
    pub numbers: Numbers,
    gradients: Usual<(i64, [i64; 4], Kind)>,
    update: Usual<Taken>,
    /// Where the batches of the captured gradients lie.
    place: Option<Tensor>,
}

/// What an update is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Taken {
    pub batches: i64,
    pub images: i64,
    /// Size of the first batch, the unit of the gradients while they are summed.
    pub reference: i64,
}

impl Taken {
    /// What turns the sum of gradients into that of the mean over all images.
    pub fn mean(&self) -> f64 {
        self.reference as f64 / self.images as f64
    }
}

/// For the gradients of a batch, and for an update.
pub type Graphs = [Option<Box<dyn Graph + Send>>; 2];

impl Queue {
    pub fn new(numbers: Numbers, [gradients, update]: Graphs) -> Self {
        Self { numbers, gradients: Usual::new(gradients), update: Usual::new(update), place: None }
    }

    /// Adds the gradients of a batch by calling `work` with it, or by replaying it if the batch is like most.
    pub fn gradients(
        &mut self,
        batch: Batch,
        reference: i64,
        mut work: impl FnMut(&Batch, &Numbers) -> Result<()>,
    ) -> Result<()> {
        let Self { numbers, gradients, place, .. } = self;
        let images = &batch.images;
        let Ok((b, c, h, w)) = images.size4() else { return work(&batch, numbers) };
        if !gradients.is((reference, [b, c, h, w], images.f_kind()?), b) {
            return work(&batch, numbers);
        }
        let mut there = match place.take() {
            Some(there) if there.size() == images.size() && there.kind() == images.kind() => there,
            _ => Tensor::f_empty([b, c, h, w], (images.kind(), numbers.seen.device()))?,
        };
        there.f_copy_(images)?;
        let batch = Batch { images: there.shallow_clone(), ..batch };
        *place = Some(there);
        gradients.capture.run(&mut || work(&batch, numbers))
    }

    /// The update by `work`, or by replaying it if it is made of as many images as most.
    pub fn update(&mut self, taken: Taken, mut work: impl FnMut(&mut Numbers) -> Result<()>) -> Result<()> {
        let Self { numbers, update, .. } = self;
        if update.is(taken, taken.images) {
            update.capture.run(&mut || work(numbers))
        } else {
            work(numbers)
        }
    }
}
