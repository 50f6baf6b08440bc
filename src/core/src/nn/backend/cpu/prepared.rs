//! A module's weights, handed over once, and what is derived from them, kept from one call to the next.
//!
//! Whoever holds the module may change its weights between two calls. torch counts changes in place, a replaced memory shows
//! by its address, and what changes behind the counters (`p.data.mul_(...)`, kernels of ours) shows in a sample of the
//! values, which unlike all of them costs next to nothing to read.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tch::{Kind, Tensor};

use super::supports;
use super::weights::Weights;
use crate::error::{ensure, Result};
use crate::libtorch::slice;
use crate::nn::wiring::check_inputs;
use crate::nn::Blueprint;

pub struct Prepared {
    pub plan: Arc<Blueprint>,
    /// The module's own, in state-dict order.
    params: Mutex<Vec<Tensor>>,
    /// What was derived last, for each of the two dtypes: copies for bfloat16, handles alone for float32.
    slots: [Mutex<Option<Slot>>; 2],
}

struct Slot {
    stamp: Stamp,
    weights: Weights,
}

/// What tells weights from the same weights changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp(u64);

impl Stamp {
    /// An error if the weights, as they are `now`, are not what they were.
    pub fn check(self, now: Self) -> Result<()> {
        ensure!(
            self == now,
            Runtime,
            "a weight of the model was changed in place after the forward pass, so that its gradient cannot be computed any \
             more: compute gradients before changing weights"
        );
        Ok(())
    }
}

impl Prepared {
    pub fn new(plan: Arc<Blueprint>, params: Vec<Tensor>) -> Self {
        Self { plan, params: Mutex::new(params), slots: Default::default() }
    }

    fn params(&self) -> MutexGuard<'_, Vec<Tensor>> {
        self.params.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Further handles on the weights.
    pub fn handles(&self) -> Vec<Tensor> {
        self.params().iter().map(Tensor::shallow_clone).collect()
    }

    /// What every pass checks before it starts, the weights' shapes among it.
    pub fn check_inputs(&self, x: &Tensor, t: &Tensor) -> Result<()> {
        check_inputs(&self.plan, &self.params(), x, t)
    }

    /// Whether the engine computes the network with these weights and this rate of dropout.
    pub fn runs_on_engine(&self, dropout: f64) -> bool {
        supports(&self.params(), dropout)
    }

    /// Does `work` with the weights derived for `kind` (Float or BFloat16), and with their stamp.
    pub fn with<T>(&self, kind: Kind, work: impl FnOnce(&Weights, Stamp) -> Result<T>) -> Result<T> {
        let (stamp, weights) = self.take(kind)?;
        let out = work(&weights, stamp);
        self.keep(stamp, weights);
        out
    }

    /// The weights derived for `kind`, and their stamp; to be handed back to [`Self::keep`]. What is kept is one set; a second
    /// thread that comes meanwhile derives its own.
    pub fn take(&self, kind: Kind) -> Result<(Stamp, Weights)> {
        let params = self.params();
        let stamp = stamp(&params)?;
        let kept = self.slot(kind).take();
        let weights = match kept {
            Some(kept) if kept.stamp == stamp => kept.weights,
            Some(mut kept) => {
                kept.weights.replace(&params)?;
                kept.weights
            }
            None => Weights::new(Arc::clone(&self.plan), &params, kind)?,
        };
        Ok((stamp, weights))
    }

    pub fn keep(&self, stamp: Stamp, weights: Weights) {
        let kind = weights.kind;
        *self.slot(kind) = Some(Slot { stamp, weights });
    }

    /// Nothing fails while the lock is held, so a slot is empty or whole.
    fn slot(&self, kind: Kind) -> MutexGuard<'_, Option<Slot>> {
        self.slots[usize::from(kind == Kind::BFloat16)].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Values of a weight that are looked at, evenly spread.
const SAMPLES: usize = 16;
const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

fn stamp(params: &[Tensor]) -> Result<Stamp> {
    params.iter().try_fold(params.len() as u64, |hash, param| Ok(mix(hash, stamp_of(param)?))).map(Stamp)
}

fn stamp_of(param: &Tensor) -> Result<u64> {
    let values = slice::<f32>(param)?;
    // tensors made in inference mode have no counter: then all values count
    let (version, samples) = match param.f_internal_version() {
        Ok(version) => (version as u64, SAMPLES),
        Err(_) => (u64::MAX, values.len()),
    };
    let stride = (values.len() / samples.max(1)).max(1);
    let sampled = values.iter().step_by(stride).chain(values.last());
    let start = mix(values.as_ptr() as u64, version);
    Ok(sampled.fold(start, |hash, value| mix(hash, u64::from(value.to_bits()))))
}

fn mix(hash: u64, word: u64) -> u64 {
    (hash ^ word).wrapping_mul(MULTIPLIER).rotate_left(29)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::presets::UNetConfig;
    use tch::Device;

    fn prepared() -> Prepared {
        let config = UNetConfig { base_ch: 16, channel_mults: vec![1], attn_levels: vec![], ..UNetConfig::default() };
        let plan = Arc::new(Blueprint::course(&config).expect("a plan"));
        let float = (Kind::Float, Device::Cpu);
        let params = plan.shapes.iter().map(|shape| Tensor::randn(&shape[..], float)).collect();
        Prepared::new(plan, params)
    }

    /// The biases of the first layer stand for all weights; bfloat16 is a copy, so a stale one would show.
    fn first_bias(prepared: &Prepared) -> f64 {
        let read = |weights: &Weights, _| Ok(f64::try_from(weights.compute(1)?.f_get(0)?)?);
        prepared.with(Kind::BFloat16, read).expect("a number")
    }

    #[test]
    fn weights_that_changed_or_moved_are_prepared_again() {
        let prepared = prepared();
        for value in [5.0, 7.0] {
            let _ = prepared.params()[1].fill_(value);
            assert_eq!(first_bias(&prepared), value);
            assert_eq!(first_bias(&prepared), value);
        }
        let zeros = prepared.params()[1].zeros_like();
        prepared.params()[1] = zeros;
        assert_eq!(first_bias(&prepared), 0.0);
    }

    #[test]
    fn a_change_behind_the_counter_of_versions_is_seen() {
        let prepared = prepared();
        let now = || prepared.with(Kind::Float, |_, stamp| Ok(stamp)).expect("a stamp");
        let then = now();
        assert!(then.check(now()).is_ok());
        let before = prepared.params()[0].f_internal_version().expect("a version");
        // what `.data` gives shares the memory and counts its changes itself
        let _ = prepared.params()[0].data().f_mul_scalar_(0.5).expect("a change");
        assert_eq!(prepared.params()[0].f_internal_version().expect("a version"), before);
        assert!(then.check(now()).expect_err("an error").to_string().contains("changed in place"));
    }
}
