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

use std::env;

use diffusion_core::choice::Choice;
use diffusion_core::switches::Kernels;
use pyo3::prelude::*;

/// An environment variable decides who computes, for tests and measurements.
fn obey_switch() -> diffusion_core::Result<()> {
    if let Ok(name) = env::var(Kernels::WHAT) {
        Kernels::parse(&name)?.switch_to();
    }
    Ok(())
}

#[pymodule]
fn _native(m: &Bound<'_, PyModule>) -> PyResult<()> {
    obey_switch().map_err(error::to_py)?;
    m.add("LINKED_TORCH", env!("LINKED_TORCH"))?;
    m.add_function(wrap_pyfunction!(detach::python_calls, m)?)?;
    data::register(m)?;
    diffusion::register(m)?;
    inverse::register(m)?;
    nn::register(m)?;
    sampler::register(m)?;
    train::register(m)
}
