//! A network's weights as the engine reads them.

use std::sync::Arc;

use tch::{Kind, Tensor};

use super::super::Blueprint;
use crate::error::Result;

/// The module's own float32 tensors, and what is derived from them for speed.
pub struct Weights {
    pub plan: Arc<Blueprint>,
    /// float32, contiguous, in state-dict order.
    pub params: Vec<Tensor>,
    /// The same in the dtype of convolutions and matrix products.
    pub compute: Vec<Tensor>,
    /// That dtype: Float or BFloat16. Activations have it too.
    pub kind: Kind,
}

impl Weights {
    pub fn new(plan: Arc<Blueprint>, params: &[Tensor], kind: Kind) -> Result<Self> {
        let params = params.iter().map(|p| Ok(p.f_detach()?.f_contiguous()?)).collect::<Result<Vec<_>>>()?;
        let compute = params.iter().map(|p| Ok(p.f_to_kind(kind)?)).collect::<Result<Vec<_>>>()?;
        Ok(Self { plan, params, compute, kind })
    }

    /// Bring what is derived up to date after the weights were changed in place.
    pub fn refresh(&mut self) -> Result<()> {
        if self.kind != Kind::Float {
            for (copy, param) in self.compute.iter_mut().zip(&self.params) {
                copy.f_copy_(param)?;
            }
        }
        Ok(())
    }
}
