//! Below tch: threads, what tch leaves out, and the memory of tensors as slices. The only folder with `unsafe`; each block
//! says why it holds.

mod memory;
mod ops;
mod place;
mod pool;
mod products;
mod quiet;
mod rng;
mod workers;

use std::ffi::{c_char, c_int, CStr};

pub use memory::{adamw_in_place, add_in_place, slice, slice_mut, InPlace, Plain, Stored};
pub use ops::{
    adamw, add_each, convolution_backward, is_finite, move_each_towards, AutocastOff, ConvolutionGradients, Moving,
    OnDevice,
};
pub use pool::TorchPool;
pub use products::{add_product, product};
pub use rng::{bernoulli, with_generator};

use crate::error::{Error, Result};

impl From<diffusion_kernels::error::Error> for Error {
    fn from(err: diffusion_kernels::error::Error) -> Self {
        match err {
            diffusion_kernels::error::Error::Memory(_) => Error::Memory(err.to_string()),
            _ => Error::Runtime(format!("internal error in a kernel: {err}")),
        }
    }
}

const MESSAGE_SIZE: usize = 1024;

/// Calls a function of the shim that gives 0, or 1 and the reason in the [`MESSAGE_SIZE`] bytes that it is handed.
fn checked(function: impl FnOnce(*mut c_char) -> c_int) -> Result<()> {
    let mut message = [0; MESSAGE_SIZE];
    if function(message.as_mut_ptr()) == 0 {
        return Ok(());
    }
    // SAFETY: the shim ends every message with a zero inside the buffer, which was zeroed before the call.
    let text = unsafe { CStr::from_ptr(message.as_ptr()) };
    Err(Error::Torch(text.to_string_lossy().into_owned()))
}
