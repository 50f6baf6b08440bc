//! Tensors that belong to an operator.

use std::sync::{Mutex, PoisonError};

use tch::{Kind, Tensor};

use crate::error::Result;

/// A tensor that nobody writes to, for any thread to read.
pub struct Constant(Mutex<Tensor>);

impl Constant {
    pub fn new(tensor: Tensor) -> Self {
        Self(Mutex::new(tensor))
    }

    pub fn get(&self) -> Tensor {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).shallow_clone()
    }

    /// In this dtype, on the device of `like`.
    pub fn like(&self, like: &Tensor, kind: Kind) -> Result<Tensor> {
        Ok(self.get().f_to_kind(kind)?.f_to_device(like.device())?)
    }
}
