//! torch's generator of random numbers on the CPU.

use std::ffi::{c_char, c_int, c_void};
use std::panic::{catch_unwind, AssertUnwindSafe};

use diffusion_kernels::norm::dropout::{Twister, STATE};
use tch::Tensor;
use torch_sys::C_tensor;

use super::{checked, MESSAGE_SIZE};
use crate::error::{ensure, Result};

extern "C" {
    fn shim_with_generator(
        body: extern "C" fn(*mut c_void, *mut u32, *mut c_int),
        context: *mut c_void,
        message: *mut c_char,
        size: usize,
    ) -> c_int;
    fn shim_bernoulli(
        out: *mut *mut C_tensor,
        seed: u64,
        p: f64,
        count: i64,
        message: *mut c_char,
        size: usize,
    ) -> c_int;
}

/// Hands torch's CPU generator to `body` and takes over how far it drew. Other threads that draw wait.
pub fn with_generator<F: FnOnce(&mut Twister)>(body: F) -> Result<()> {
    struct Job<F> {
        body: Option<F>,
        done: bool,
    }
    extern "C" fn draw<F: FnOnce(&mut Twister)>(context: *mut c_void, words: *mut u32, left: *mut c_int) {
        // SAFETY: the shim hands back the context of its caller, a `Job<F>` that nobody else sees, and, for the length of
        // this call, its own copy of the generator: 624 words and how many are left.
        let (job, words, left) =
            unsafe { (&mut *(context as *mut Job<F>), &mut *(words as *mut [u32; STATE]), &mut *left) };
        let Some(body) = job.body.take() else { return };
        let mut twister = Twister { words: *words, used: STATE.min((STATE + 1).saturating_sub(*left as usize)) };
        job.done = catch_unwind(AssertUnwindSafe(|| body(&mut twister))).is_ok();
        if job.done {
            (*words, *left) = (twister.words, (STATE + 1 - twister.used) as c_int);
        }
    }
    let mut job = Job { body: Some(body), done: false };
    let context = std::ptr::from_mut(&mut job) as *mut c_void;
    // SAFETY: `draw::<F>` has the signature the shim calls, never unwinds, and `job` outlives the call.
    checked(|message| unsafe { shim_with_generator(draw::<F>, context, message, MESSAGE_SIZE) })?;
    ensure!(job.done, Runtime, "internal error: drawing random numbers failed");
    Ok(())
}

/// `count` bytes, each 1 with probability `p`, as torch draws them from a CPU generator with this seed.
pub fn bernoulli(seed: u64, p: f64, count: usize) -> Result<Tensor> {
    let mut out = std::ptr::null_mut();
    // SAFETY: writes one pointer to `out`.
    checked(|message| unsafe { shim_bernoulli(&mut out, seed, p, count as i64, message, MESSAGE_SIZE) })?;
    // SAFETY: after success `out` is a new tensor on the heap that the shim hands over.
    Ok(unsafe { Tensor::from_ptr(out) })
}
