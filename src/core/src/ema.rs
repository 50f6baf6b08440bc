//! Exponential moving average of weights.

use tch::Tensor;

use crate::error::{ensure, Result};

/// shadow = decay * shadow + (1 - decay) * weights, in place.
pub fn ema_update(shadow: &[Tensor], weights: &[Tensor], decay: f64) -> Result<()> {
    ensure!(
        shadow.len() == weights.len(),
        Value,
        "model must have the {} parameters of the shadow, got {}",
        shadow.len(),
        weights.len()
    );
    for (index, (s, w)) in shadow.iter().zip(weights).enumerate() {
        ensure!(
            s.size() == w.size() && s.device() == w.device(),
            Value,
            "parameter {index} of model must be {:?} on {:?} as in the shadow, got {:?} on {:?}",
            s.size(),
            s.device(),
            w.size(),
            w.device()
        );
    }
    let _guard = tch::no_grad_guard();
    for (s, w) in shadow.iter().zip(weights) {
        let mut s = s.f_detach()?;
        let step = w.f_detach()?.f_mul_scalar(1.0 - decay)?;
        let _ = s.f_mul_scalar_(decay)?.f_add_(&step)?;
    }
    Ok(())
}
