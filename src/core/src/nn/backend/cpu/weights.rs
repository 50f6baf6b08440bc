//! A network's weights as the engine reads them.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use diffusion_kernels::conv::{Filter, Method};
use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::libtorch::{slice, TorchPool};
use crate::nn::blueprint::{Conv, Padding};
use crate::nn::Blueprint;
use crate::switches::Kernels;

/// The module's own float32 tensors, and what is derived from them for speed.
pub struct Weights {
    pub plan: Arc<Blueprint>,
    /// float32, contiguous, in state-dict order.
    pub params: Vec<Tensor>,
    /// The same in the dtype of convolutions and matrix products.
    pub compute: Vec<Tensor>,
    /// That dtype: Float or BFloat16. Activations have it too.
    pub kind: Kind,
    filters: Filters,
}

/// Transformed filters of the fast convolutions, up to four times as large as the weights they are made of.
enum Filters {
    /// Made when first asked for and good until the weights change: forward and for the input's gradient, at the index
    /// of the weight.
    Kept([Vec<OnceLock<Filter>>; 2]),
    /// Made for each use, in the memory of an earlier one of the same shape: for weights that change in every step.
    Fleeting(Mutex<Vec<(FilterKey, Filter)>>),
}

/// Filters that are equal in these can be made in one another's memory.
#[derive(Clone, Copy, PartialEq)]
struct FilterKey {
    method: Method,
    direction: Direction,
    cin: i64,
    cout: i64,
}

/// Which of a convolution's two filters.
#[derive(Clone, Copy, PartialEq)]
pub enum Direction {
    Forward,
    InputGradient,
}

/// Narrower convolutions gain nothing from fast filtering.
const MIN_CHANNELS: i64 = 16;

fn dense(params: &[Tensor]) -> Result<Vec<Tensor>> {
    params.iter().map(|p| Ok(p.f_detach()?.f_contiguous()?)).collect()
}

impl Weights {
    pub fn new(plan: Arc<Blueprint>, params: &[Tensor], kind: Kind) -> Result<Self> {
        let params = dense(params)?;
        let compute = params.iter().map(|p| Ok(p.f_to_kind(kind)?)).collect::<Result<Vec<_>>>()?;
        let filters = Filters::Kept([0, 1].map(|_| (0..params.len()).map(|_| OnceLock::new()).collect()));
        Ok(Self { plan, params, compute, kind, filters })
    }

    /// For weights that change in every step.
    pub fn in_training(self) -> Self {
        Self { filters: Filters::Fleeting(Mutex::default()), ..self }
    }

    /// Whether this convolution is computed by fast filtering: 3x3, padded in a way that it knows, wide enough, and not
    /// left to matrix units.
    pub fn is_fast(&self, conv: &Conv) -> bool {
        if self.kind == Kind::BFloat16 && Kernels::in_use() == Kernels::Amx {
            return false;
        }
        let padded = conv.padding == Padding::even(1) || (conv.padding == Padding::AFTER && conv.stride == 2);
        conv.kernel == 3 && padded && conv.cin >= MIN_CHANNELS && conv.cout >= MIN_CHANNELS
    }

    /// Calls `work` with the transformed filter of a convolution.
    pub fn with_filter<T>(
        &self,
        conv: &Conv,
        method: Method,
        direction: Direction,
        work: impl FnOnce(&Filter) -> Result<T>,
    ) -> Result<T> {
        let weights = slice::<f32>(&self.params[conv.param])?;
        let key = FilterKey { method, direction, cin: conv.cin, cout: conv.cout };
        match &self.filters {
            Filters::Kept(filters) => {
                let cell = &filters[direction as usize][conv.param];
                if cell.get().is_none() {
                    // another thread may have been faster: then theirs, which is the same
                    let _ = cell.set(transformed(key, weights)?);
                }
                work(cell.get().ok_or_else(|| Error::Runtime("internal error: a filter was not kept".into()))?)
            }
            Filters::Fleeting(spare) => {
                let lock = || spare.lock().unwrap_or_else(PoisonError::into_inner);
                let used = {
                    let mut spare = lock();
                    spare.iter().position(|(of, _)| *of == key).map(|place| spare.swap_remove(place).1)
                };
                let filter = match used {
                    Some(mut filter) => {
                        filter.update(&TorchPool, weights)?;
                        filter
                    }
                    None => transformed(key, weights)?,
                };
                let out = work(&filter);
                lock().push((key, filter));
                out
            }
        }
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
        if let Filters::Kept(filters) = &mut self.filters {
            for (cell, param) in filters.iter_mut().flat_map(|cells| cells.iter_mut().zip(&self.params)) {
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

fn transformed(key: FilterKey, weights: &[f32]) -> Result<Filter> {
    let (cin, cout) = (key.cin as usize, key.cout as usize);
    Ok(match key.direction {
        Direction::Forward => Filter::new(key.method, weights, cout, [cin, 0])?,
        Direction::InputGradient => Filter::of_input_gradient(key.method, weights, cout, cin)?,
    })
}
