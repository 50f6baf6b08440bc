//! What a network computes in.

use std::sync::Arc;

use tch::{Kind, Tensor};

use super::backend::cpu;
use super::Blueprint;
use crate::error::{Error, Result};

/// What convolutions and matrix products are computed in. Weights, group statistics, loss and schedule stay float32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    Fp32,
    Bf16,
    Fp16,
}

impl Precision {
    pub const ALL: [Self; 3] = [Self::Fp32, Self::Bf16, Self::Fp16];

    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
            Self::Fp16 => "fp16",
        }
    }

    pub fn parse(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|precision| precision.name() == name);
        found.ok_or_else(|| Error::Value(format!("precision must be \"fp32\", \"bf16\" or \"fp16\", got \"{name}\"")))
    }

    /// The dtype of convolutions and matrix products, where it is not the weights' own.
    pub fn compute(self) -> Option<Kind> {
        match self {
            Self::Fp32 => None,
            Self::Bf16 => Some(Kind::BFloat16),
            Self::Fp16 => Some(Kind::Half),
        }
    }

    /// The CPU engine's weights, if it computes this network at this precision.
    pub fn engine(self, plan: &Arc<Blueprint>, params: &[Tensor], dropout: f64) -> Result<Option<cpu::Weights>> {
        if self == Self::Fp16 || !cpu::supports(params, dropout) {
            return Ok(None);
        }
        cpu::Weights::new(Arc::clone(plan), params, self.compute().unwrap_or(Kind::Float)).map(Some)
    }
}
