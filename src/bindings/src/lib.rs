//! `rust_diffusion._native`: the Python face of diffusion-core, thin on purpose.
//!
//! Arguments come in as Python objects and are checked here; tensors cross without a copy; the GIL is released around
//! the core; every error becomes a built-in exception. No tensor arithmetic happens here.

#![deny(unsafe_code)]

mod data;
mod detach;
mod device;
mod diffusion;
mod error;
mod inverse;
mod nn;
mod sampler;
mod tensor;
mod train;

use pyo3::prelude::*;

#[pymodule]
fn _native(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("LINKED_TORCH", env!("LINKED_TORCH"))?;
    m.add_function(wrap_pyfunction!(detach::python_calls, m)?)?;
    data::register(m)?;
    diffusion::register(m)?;
    inverse::register(m)?;
    nn::register(m)?;
    sampler::register(m)?;
    train::register(m)
}
