//! The numbers of updates that stay on the accelerator: nothing is read back until somebody wants to see how the run goes.

use tch::{Device, Kind, Tensor};

use super::host::Gathered;
use super::optim::{clip_divisor, AdamW, TrainingTensors};
use super::scaler::DeviceScaler;
use super::{LossScaler, Position, Settings};
use crate::error::Result;
use crate::flat::Flat;
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
pub struct DeviceCounters {
    rate: Tensor,
    /// 1 - decay of the averaged weights.
    share: Tensor,
    /// Updates made, counted as AdamW does.
    updates: Tensor,
    /// With float16.
    scaler: Option<DeviceScaler>,
    seen: Tensor,
}

impl DeviceCounters {
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

    pub fn device(&self) -> Device {
        self.seen.device()
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

    /// One update with what was gathered in `grads`, whose extra is the loss; the weights stay as they are if something in
    /// it is not finite.
    pub fn update(
        &mut self,
        tensors: &mut TrainingTensors,
        grads: &mut Flat,
        adamw: &AdamW,
        gathered: &Gathered,
        settings: &Settings,
    ) -> Result<()> {
        let (scale, mean) = (self.scale()?, gathered.mean());
        let loss = grads.extra_on_device()?.f_mul_scalar(mean)?;
        let mut norm = grads.parameters()?.f_norm()?.f_mul_scalar(mean)?;
        if let Some(scale) = &scale {
            norm = norm.f_div(scale)?;
        }
        let failed = norm.f_add(&loss)?.f_isfinite()?.f_logical_not()?.f_to_kind(Kind::Float)?;
        let mut divisor = clip_divisor(&norm, settings.grad_clip)?.f_div_scalar(mean)?;
        if let Some(scale) = &scale {
            divisor = divisor.f_mul(scale)?;
        }
        let _ = self.updates.f_add_(&failed.f_neg()?.f_add_scalar(1.0)?)?;
        let (divisor, left_out) = (Some(&divisor), Some(&failed));
        let numbers = OnDevice { rate: &self.rate, updates: &self.updates, divisor, left_out };
        adamw.step_on_device(tensors, grads, &numbers)?;
        move_each_towards(&tensors.shadow, &tensors.weights, &self.share)?;
        if let Some(scaler) = &mut self.scaler {
            scaler.update(&failed)?;
        }
        self.note(&failed, &loss, gathered.batches)
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
