//! Prepared weights kept from one call of a module to the next.
//!
//! Whoever holds the module may change its weights between two calls, also behind the back of torch's version counters
//! (`p.data.mul_(...)`). So what was derived from them is kept under a fingerprint of their contents: reading all weights
//! once takes a few milliseconds, deriving again ten times that.

use std::sync::{Arc, Mutex, PoisonError};

use diffusion_kernels::pool::Pool;
use tch::{Kind, Tensor};

use super::super::Blueprint;
use super::weights::Weights;
use crate::error::Result;
use crate::libtorch::{slice, TorchPool};

/// What was prepared last, for each of the two dtypes.
#[derive(Default)]
pub struct Prepared {
    slots: [Mutex<Option<Slot>>; 2],
}

struct Slot {
    fingerprint: u64,
    weights: Weights,
}

impl Prepared {
    /// Do `work` with the weights of a network, prepared for `kind` (Float or BFloat16). What is kept is one set; a
    /// second thread that comes meanwhile prepares its own.
    pub fn with<T>(
        &self,
        plan: &Arc<Blueprint>,
        params: &[Tensor],
        kind: Kind,
        work: impl FnOnce(&Weights) -> Result<T>,
    ) -> Result<T> {
        let slot = &self.slots[usize::from(kind == Kind::BFloat16)];
        // nothing fails while the lock is held, so a slot is empty or whole
        let take = || slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        let fingerprint = fingerprint(params)?;
        let weights = match take() {
            Some(kept) if kept.fingerprint == fingerprint => kept.weights,
            Some(mut kept) => {
                kept.weights.replace(params)?;
                kept.weights
            }
            None => Weights::new(Arc::clone(plan), params, kind)?,
        };
        let out = work(&weights);
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(Slot { fingerprint, weights });
        out
    }
}

const LANES: usize = 8;
const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

/// A hash of the memory addresses and the contents of all parameters.
fn fingerprint(params: &[Tensor]) -> Result<u64> {
    let slices = params.iter().map(slice::<f32>).collect::<Result<Vec<_>>>()?;
    let hashes: Vec<std::sync::atomic::AtomicU64> = slices.iter().map(|_| Default::default()).collect();
    TorchPool.run(slices.len(), &|i| {
        hashes[i].store(hash(slices[i]), std::sync::atomic::Ordering::Relaxed);
    });
    let mut all = params.len() as u64;
    for (hash, values) in hashes.into_iter().zip(&slices) {
        all = mix(mix(all, hash.into_inner()), values.as_ptr() as u64);
    }
    Ok(all)
}

fn mix(hash: u64, word: u64) -> u64 {
    (hash ^ word).wrapping_mul(MULTIPLIER).rotate_left(29)
}

/// Several chains side by side, so that the multiplications overlap.
fn hash(values: &[f32]) -> u64 {
    let mut lanes = [0u64; LANES];
    let mut chunks = values.chunks_exact(2 * LANES);
    for chunk in &mut chunks {
        for (lane, pair) in lanes.iter_mut().zip(chunk.chunks_exact(2)) {
            *lane = mix(*lane, u64::from(pair[0].to_bits()) << 32 | u64::from(pair[1].to_bits()));
        }
    }
    let rest = chunks.remainder().iter().fold(values.len() as u64, |hash, v| mix(hash, u64::from(v.to_bits())));
    lanes.into_iter().fold(rest, mix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::UNetConfig;
    use tch::Device;

    #[test]
    fn weights_that_changed_or_moved_are_prepared_again() {
        let config = UNetConfig { base_ch: 16, channel_mults: vec![1], attn_levels: vec![], ..UNetConfig::default() };
        let plan = Arc::new(Blueprint::new(config).expect("a plan"));
        let float = (Kind::Float, Device::Cpu);
        let mut params: Vec<Tensor> = plan.shapes.iter().map(|shape| Tensor::randn(&shape[..], float)).collect();
        let prepared = Prepared::default();
        // the biases of the first layer stand for all weights; bfloat16 is a copy, so a stale one would show
        let first_bias = |params: &[Tensor]| {
            let read = |weights: &Weights| Ok(f64::try_from(weights.compute[1].f_get(0)?)?);
            prepared.with(&plan, params, Kind::BFloat16, read).expect("a number")
        };
        for value in [5.0, 7.0] {
            let _ = params[1].fill_(value);
            assert_eq!(first_bias(&params), value);
            assert_eq!(first_bias(&params), value);
        }
        params[1] = params[1].zeros_like();
        assert_eq!(first_bias(&params), 0.0);
    }
}
