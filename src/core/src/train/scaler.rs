//! Loss scaling for float16 (Micikevicius et al. 2018, section 3.2), with the rules of torch.amp.GradScaler.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::error::Result;

const INITIAL: f64 = 65536.0;
const GROWTH: f64 = 2.0;
const BACKOFF: f64 = 0.5;
/// Healthy updates before the scale grows.
const INTERVAL: i64 = 2000;
/// More updates in a row without a finite gradient end the run: by then the scale has fallen from 2^16 to below 2^-8,
/// so that overflow is no longer the reason.
pub const MAX_CONSECUTIVE_SKIPS: i64 = 25;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LossScaler {
    pub scale: f64,
    /// Healthy updates since the scale last changed.
    #[serde(rename = "scale_healthy")]
    pub healthy: i64,
    pub skips_in_a_row: i64,
}

impl Default for LossScaler {
    fn default() -> Self {
        Self { scale: INITIAL, healthy: 0, skips_in_a_row: 0 }
    }
}

impl LossScaler {
    /// Whether overflow can no longer be the reason for what is left out.
    pub fn gave_up(&self) -> bool {
        self.skips_in_a_row > MAX_CONSECUTIVE_SKIPS
    }

    pub fn update(&mut self, healthy: bool) {
        if !healthy {
            self.scale *= BACKOFF;
            self.healthy = 0;
            self.skips_in_a_row += 1;
            return;
        }
        self.skips_in_a_row = 0;
        self.healthy += 1;
        if self.healthy == INTERVAL {
            self.scale *= GROWTH;
            self.healthy = 0;
        }
    }
}

/// The same on the device, where nobody waits to see how an update went: [`LossScaler`] as single numbers, and behind
/// them the longest row of updates left out.
pub struct DeviceScaler {
    numbers: [Tensor; 4],
}

impl DeviceScaler {
    pub fn new(scaler: &LossScaler, device: Device) -> Result<Self> {
        let number = |value: f64| Tensor::f_full([] as [i64; 0], value, (Kind::Float, device));
        let skips = scaler.skips_in_a_row as f64;
        let numbers = [number(scaler.scale)?, number(scaler.healthy as f64)?, number(skips)?, number(skips)?];
        Ok(Self { numbers })
    }

    /// A copy of the scale as it is now.
    pub fn scale(&self) -> Result<Tensor> {
        Ok(self.numbers[0].f_add_scalar(0.0)?)
    }

    /// `failed` is 1 after an update that was left out, 0 after a healthy one.
    pub fn update(&mut self, failed: &Tensor) -> Result<()> {
        let [scale, healthy, skips, longest] = &mut self.numbers;
        let _ = healthy.f_add_scalar_(1.0)?.f_mul_(&failed.f_neg()?.f_add_scalar(1.0)?)?;
        let calm = healthy.f_eq(INTERVAL as f64)?.f_to_kind(Kind::Float)?;
        let _ = scale.f_mul_(&failed.f_mul_scalar(BACKOFF - 1.0)?.f_add_scalar(1.0)?)?;
        let _ = scale.f_mul_(&calm.f_mul_scalar(GROWTH - 1.0)?.f_add_scalar(1.0)?)?;
        let _ = healthy.f_mul_(&calm.f_neg()?.f_add_scalar(1.0)?)?;
        let _ = skips.f_add_scalar_(1.0)?.f_mul_(failed)?;
        longest.f_copy_(&longest.f_maximum(skips)?)?;
        Ok(())
    }

    /// The scaler, and the longest row of updates left out so far. Waits for the device.
    pub fn read(&self) -> Result<(LossScaler, i64)> {
        let values = Vec::<f64>::try_from(Tensor::f_stack(&self.numbers, 0)?.f_to_kind(Kind::Double)?)?;
        let scaler = LossScaler { scale: values[0], healthy: values[1] as i64, skips_in_a_row: values[2] as i64 };
        Ok((scaler, values[3] as i64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_keeps_the_same_count() {
        let mut scaler = LossScaler { healthy: INTERVAL - 3, ..LossScaler::default() };
        let mut on_device = DeviceScaler::new(&scaler, Device::Cpu).expect("a scaler");
        let mut longest = 0;
        for healthy in [true, true, true, true, false, false, false, true, false, true] {
            scaler.update(healthy);
            longest = longest.max(scaler.skips_in_a_row);
            on_device.update(&Tensor::from(if healthy { 0f32 } else { 1f32 })).expect("updated");
            assert_eq!(on_device.read().expect("read"), (scaler.clone(), longest));
        }
        assert_eq!((scaler.scale, longest), (INITIAL / 8.0, 3));
    }

    #[test]
    fn the_scale_halves_on_overflow_and_doubles_after_a_long_calm() {
        let mut scaler = LossScaler::default();
        scaler.update(true);
        scaler.update(false);
        assert_eq!((scaler.scale, scaler.healthy, scaler.skips_in_a_row), (INITIAL / 2.0, 0, 1));
        for _ in 0..INTERVAL {
            scaler.update(true);
        }
        assert_eq!((scaler.scale, scaler.healthy, scaler.skips_in_a_row), (INITIAL, 0, 0));
    }
}
