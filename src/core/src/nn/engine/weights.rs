//! A network's weights as the engine reads them.

use std::sync::{Arc, OnceLock};

use diffusion_kernels::winograd::{Filter, Method};
use tch::{Kind, Tensor};

use super::super::blueprint::Conv;
use super::super::Blueprint;
use crate::error::{Error, Result};
use crate::libtorch::{slice, TorchPool};

/// The module's own float32 tensors, and what is derived from them for speed.
pub struct Weights {
    pub plan: Arc<Blueprint>,
    /// float32, contiguous, in state-dict order.
    pub params: Vec<Tensor>,
    /// The same in the dtype of convolutions and matrix products.
    pub compute: Vec<Tensor>,
    /// That dtype: Float or BFloat16. Activations have it too.
    pub kind: Kind,
    /// Transformed filters of the fast convolutions, made when first asked for: forward and for the input's gradient, at
    /// the index of the weight.
    filters: [Vec<OnceLock<Filter>>; 2],
}

/// Which of a convolution's two filters.
#[derive(Clone, Copy)]
pub enum Direction {
    Forward,
    InputGradient,
}

/// Narrower convolutions gain nothing from fast filtering.
const MIN_CHANNELS: i64 = 16;

fn empty_filters(count: usize) -> [Vec<OnceLock<Filter>>; 2] {
    [0, 1].map(|_| (0..count).map(|_| OnceLock::new()).collect())
}

fn dense(params: &[Tensor]) -> Result<Vec<Tensor>> {
    params.iter().map(|p| Ok(p.f_detach()?.f_contiguous()?)).collect()
}

impl Weights {
    pub fn new(plan: Arc<Blueprint>, params: &[Tensor], kind: Kind) -> Result<Self> {
        let params = dense(params)?;
        let compute = params.iter().map(|p| Ok(p.f_to_kind(kind)?)).collect::<Result<Vec<_>>>()?;
        let filters = empty_filters(params.len());
        Ok(Self { plan, params, compute, kind, filters })
    }

    /// Whether this convolution is computed by fast filtering: 3x3 and wide enough.
    pub fn is_fast(&self, conv: &Conv) -> bool {
        conv.kernel == 3 && conv.cin >= MIN_CHANNELS && conv.cout >= MIN_CHANNELS
    }

    /// The transformed filter of a convolution.
    pub fn filter(&self, conv: &Conv, method: Method, direction: Direction) -> Result<&Filter> {
        let cell = &self.filters[direction as usize][conv.param];
        if cell.get().is_none() {
            let weights = slice::<f32>(&self.params[conv.param])?;
            let (cin, cout) = (conv.cin as usize, conv.cout as usize);
            let made = match direction {
                Direction::Forward => Filter::new(method, weights, cout, [cin, 0])?,
                Direction::InputGradient => Filter::of_input_gradient(method, weights, cout, cin)?,
            };
            // another thread may have been faster: then theirs, which is the same
            let _ = cell.set(made);
        }
        cell.get().ok_or_else(|| Error::Runtime("internal error: a filter was not kept".into()))
    }

    /// The same network with other weights.
    pub fn replace(&mut self, params: &[Tensor]) -> Result<()> {
        self.params = dense(params)?;
        if self.kind == Kind::Float {
            self.compute = self.params.iter().map(Tensor::shallow_clone).collect();
        }
        self.refresh()
    }

    /// Bring what is derived up to date after the weights were changed in place.
    pub fn refresh(&mut self) -> Result<()> {
        for filters in &mut self.filters {
            for (cell, param) in filters.iter_mut().zip(&self.params) {
                if let Some(filter) = cell.get_mut() {
                    filter.update(&TorchPool, slice::<f32>(param)?)?;
                }
            }
        }
        if self.kind != Kind::Float {
            for (copy, param) in self.compute.iter_mut().zip(&self.params) {
                copy.f_copy_(param)?;
            }
        }
        Ok(())
    }
}
