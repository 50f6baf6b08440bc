//! What a network computes in.

use std::sync::Arc;

use tch::{Kind, Tensor};

use super::backend::cpu;
use super::Blueprint;
use crate::choice::Choice;
use crate::error::Result;

/// What convolutions and matrix products are computed in. Weights, group statistics, loss and schedule stay float32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    Fp32,
    Bf16,
    Fp16,
}

impl Choice for Precision {
    const WHAT: &'static str = "precision";
    const ALL: &'static [(&'static str, Self)] = &[("fp32", Self::Fp32), ("bf16", Self::Bf16), ("fp16", Self::Fp16)];
}

impl Precision {
    /// The dtype of convolutions and matrix products, where it is not the weights' own.
    pub fn compute(self) -> Option<Kind> {
        match self {
            Self::Fp32 => None,
            Self::Bf16 => Some(Kind::BFloat16),
            Self::Fp16 => Some(Kind::Half),
        }
    }

    /// The dtype of the CPU engine's weights and activations at this precision, if it has one.
    pub fn engine_kind(self) -> Option<Kind> {
        match self {
            Self::Fp32 => Some(Kind::Float),
            Self::Bf16 => Some(Kind::BFloat16),
            Self::Fp16 => None,
        }
    }

    /// The CPU engine's weights, if it computes this network at this precision.
    pub fn engine(self, plan: &Arc<Blueprint>, params: &[Tensor], dropout: f64) -> Result<Option<cpu::Weights>> {
        match self.engine_kind().filter(|_| cpu::supports(params, dropout)) {
            Some(kind) => cpu::Weights::new(Arc::clone(plan), params, kind).map(Some),
            None => Ok(None),
        }
    }
}
