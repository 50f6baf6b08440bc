//! Loss scaling for float16 (Micikevicius et al. 2018, section 3.2), with the rules of torch.amp.GradScaler.

const INITIAL: f64 = 65536.0;
const GROWTH: f64 = 2.0;
const BACKOFF: f64 = 0.5;
/// Healthy updates before the scale grows.
const INTERVAL: i64 = 2000;
/// More updates in a row without a finite gradient end the run: by then the scale has fallen from 2^16 to below 2^-8,
/// so that overflow is no longer the reason.
pub const MAX_CONSECUTIVE_SKIPS: i64 = 25;

#[derive(Debug, Clone, PartialEq)]
pub struct LossScaler {
    pub scale: f64,
    /// Healthy updates since the scale last changed.
    pub healthy: i64,
    pub skips_in_a_row: i64,
}

impl Default for LossScaler {
    fn default() -> Self {
        Self { scale: INITIAL, healthy: 0, skips_in_a_row: 0 }
    }
}

impl LossScaler {
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

#[cfg(test)]
mod tests {
    use super::*;

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
