//! A network's weights as the engine reads them.

use std::cell::OnceCell;
use std::sync::Arc;

use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::nn::blueprint::{Conv, Padding};
use crate::nn::Blueprint;
use crate::switches::Kernels;

/// The module's own float32 tensors, and copies of them for products in a shorter type.
pub struct Weights {
    pub plan: Arc<Blueprint>,
    /// float32, contiguous, in state-dict order.
    pub params: Vec<Tensor>,
    /// The dtype of convolutions and matrix products, Float or BFloat16. Activations have it too.
    pub kind: Kind,
    /// In that dtype, if it is another; made when first asked for and good until the weights change.
    copies: Vec<OnceCell<Tensor>>,
}

/// Convolutions narrower than this on both sides gain nothing from fast filtering.
const MIN_CHANNELS: i64 = 16;

fn dense(params: &[Tensor]) -> Result<Vec<Tensor>> {
    params.iter().map(|p| Ok(p.f_detach()?.f_contiguous()?)).collect()
}

impl Weights {
    pub fn new(plan: Arc<Blueprint>, params: &[Tensor], kind: Kind) -> Result<Self> {
        let params = dense(params)?;
        let copies = params.iter().map(|_| OnceCell::new()).collect();
        Ok(Self { plan, params, kind, copies })
    }

    /// A parameter in the dtype of the products.
    pub fn compute(&self, param: usize) -> Result<&Tensor> {
        if self.kind == Kind::Float {
            return Ok(&self.params[param]);
        }
        let copy = &self.copies[param];
        if copy.get().is_none() {
            let _ = copy.set(self.params[param].f_to_kind(self.kind)?);
        }
        copy.get().ok_or_else(|| Error::Runtime("internal error: a copy of the weights was not kept".into()))
    }

    /// Whether this convolution is computed by fast filtering: 3x3, padded in a way that it knows, wide enough, and not
    /// left to matrix units.
    pub fn is_fast(&self, conv: &Conv) -> bool {
        if self.kind == Kind::BFloat16 && Kernels::in_use() == Kernels::Amx {
            return false;
        }
        let padded = conv.padding == Padding::even(1) || (conv.padding == Padding::AFTER && conv.stride == 2);
        conv.kernel == 3 && padded && conv.cin.max(conv.cout) >= MIN_CHANNELS
    }

    /// The same network with other weights.
    pub fn replace(&mut self, params: &[Tensor]) -> Result<()> {
        self.params = dense(params)?;
        // anew: torch refuses to write to what was made in inference mode
        self.copies.iter_mut().for_each(|copy| *copy = OnceCell::new());
        Ok(())
    }

    /// Bring the copies up to date after the weights were changed in place.
    pub fn refresh(&mut self) -> Result<()> {
        for (copy, param) in self.copies.iter_mut().zip(&self.params) {
            if let Some(copy) = copy.get_mut() {
                copy.f_copy_(param)?;
            }
        }
        Ok(())
    }
}
