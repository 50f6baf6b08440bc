//! Operations that tch leaves out: the CPU's autocast, the gradients of a convolution, the layout of tensors, lists of
//! tensors at once, whether a tensor is finite.

use std::ffi::{c_char, c_int};

use tch::Tensor;
use torch_sys::C_tensor;

use super::{checked, MESSAGE_SIZE};
use crate::error::{ensure, Result};

extern "C" {
    fn shim_set_autocast(enabled: u8) -> u8;
    fn shim_convolution_backward(
        out: *mut *mut C_tensor,
        dy: *const C_tensor,
        x: *const C_tensor,
        weight: *const C_tensor,
        stride: i64,
        padding: i64,
        mask: *const u8,
        message: *mut c_char,
        size: usize,
    ) -> c_int;
    fn shim_add_each(
        to: *const *const C_tensor,
        from: *const *const C_tensor,
        count: usize,
        message: *mut c_char,
        size: usize,
    ) -> c_int;
    fn shim_move_each_towards(
        which: *const *const C_tensor,
        towards: *const *const C_tensor,
        count: usize,
        share: *const C_tensor,
        message: *mut c_char,
        size: usize,
    ) -> c_int;
    fn shim_adamw(
        weights: *const *const C_tensor,
        gradients: *const *const C_tensor,
        first: *const *const C_tensor,
        second: *const *const C_tensor,
        count: usize,
        numbers: *const *const C_tensor,
        constants: *const f64,
        message: *mut c_char,
        size: usize,
    ) -> c_int;
}

/// Whether it holds neither NaN nor infinity.
pub fn is_finite(x: &Tensor) -> Result<bool> {
    Ok(x.f_isfinite()?.f_all()?.f_int64_value(&[])? == 1)
}

/// While it lives, the caller's CPU autocast does not reach into what this thread computes.
pub struct AutocastOff {
    before: u8,
}

impl AutocastOff {
    pub fn new() -> Self {
        // SAFETY: sets a flag of this thread.
        Self { before: unsafe { shim_set_autocast(0) } }
    }
}

impl Drop for AutocastOff {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { shim_set_autocast(self.before) };
    }
}

/// What [`convolution_backward`] is to compute.
#[derive(Clone, Copy)]
pub struct ConvolutionGradients {
    pub input: bool,
    pub weight: bool,
    pub bias: bool,
}

/// Gradients of conv2d (square stride and padding) for input, weight and bias, those asked for.
pub fn convolution_backward(
    dy: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    stride: i64,
    padding: i64,
    wanted: ConvolutionGradients,
) -> Result<[Option<Tensor>; 3]> {
    let mask = [u8::from(wanted.input), u8::from(wanted.weight), u8::from(wanted.bias)];
    let mut out = [std::ptr::null_mut(); 3];
    // SAFETY: the tensors live through the call, which only reads them; `out` and `mask` have the sizes the shim writes
    // and reads.
    checked(|message| unsafe {
        shim_convolution_backward(
            out.as_mut_ptr(),
            dy.as_ptr(),
            x.as_ptr(),
            weight.as_ptr(),
            stride,
            padding,
            mask.as_ptr(),
            message,
            MESSAGE_SIZE,
        )
    })?;
    // SAFETY: a pointer that is not null is a new tensor on the heap that the shim hands over.
    Ok(out.map(|ptr| (!ptr.is_null()).then(|| unsafe { Tensor::from_ptr(ptr) })))
}

/// What an operation on lists of tensors reads; the tensors live as long as the slice they come from.
fn pointers<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Vec<*const C_tensor> {
    tensors.into_iter().map(|tensor| tensor.as_ptr()).collect()
}

fn ensure_same_count(lists: &[&[Tensor]]) -> Result<usize> {
    let count = lists[0].len();
    ensure!(lists.iter().all(|list| list.len() == count), Value, "lists of tensors must have the same length");
    Ok(count)
}

/// to += from, each with each, in a few launches.
pub fn add_each(to: &[Tensor], from: &[Tensor]) -> Result<()> {
    let count = ensure_same_count(&[to, from])?;
    let (to, from) = (pointers(to), pointers(from));
    // SAFETY: `count` pointers each to tensors that the arguments keep alive; the shim reads no more of them.
    checked(|message| unsafe { shim_add_each(to.as_ptr(), from.as_ptr(), count, message, MESSAGE_SIZE) })
}

/// which += share * (towards - which), each with each, in a few launches; `share` is one number on their device.
pub fn move_each_towards(which: &[Tensor], towards: &[Tensor], share: &Tensor) -> Result<()> {
    let count = ensure_same_count(&[which, towards])?;
    let (which, towards) = (pointers(which), pointers(towards));
    // SAFETY: as above; `share` lives through the call.
    checked(|message| unsafe {
        shim_move_each_towards(which.as_ptr(), towards.as_ptr(), count, share.as_ptr(), message, MESSAGE_SIZE)
    })
}

/// What [`adamw`] changes, and the gradients it reads, which it divides in place.
pub struct Moving<'a> {
    pub weights: &'a [Tensor],
    pub gradients: &'a [Tensor],
    pub first: &'a [Tensor],
    pub second: &'a [Tensor],
}

/// Numbers on the device of the weights, float32.
pub struct OnDevice<'a> {
    pub rate: &'a Tensor,
    /// Steps made, this one among them.
    pub updates: &'a Tensor,
    /// What to divide the gradients by, if by anything. Apple's kernel would not.
    pub divisor: Option<&'a Tensor>,
    /// 1 to leave the step out, 0 to make it; Apple's kernel always makes it.
    pub left_out: Option<&'a Tensor>,
}

/// One step of torch's fused AdamW, without a word to the host. `constants` are the two betas, weight decay and eps.
pub fn adamw(moving: &Moving, numbers: &OnDevice, constants: [f64; 4]) -> Result<()> {
    let Moving { weights, gradients, first, second } = *moving;
    let count = ensure_same_count(&[weights, gradients, first, second])?;
    let [weights, gradients, first, second] = [weights, gradients, first, second].map(pointers);
    let numbers = [Some(numbers.rate), Some(numbers.updates), numbers.divisor, numbers.left_out]
        .map(|number| number.map_or(std::ptr::null(), Tensor::as_ptr));
    // SAFETY: `count` pointers in each list and the four numbers (the last two may be null), all to tensors that the arguments keep alive; `constants`
    // has the four values that the shim reads.
    checked(|message| unsafe {
        shim_adamw(
            weights.as_ptr(),
            gradients.as_ptr(),
            first.as_ptr(),
            second.as_ptr(),
            count,
            numbers.as_ptr(),
            constants.as_ptr(),
            message,
            MESSAGE_SIZE,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn convolution_gradients_are_those_of_autograd() {
        let x = Tensor::randn([2, 3, 6, 6], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let w = Tensor::randn([4, 3, 3, 3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let dy = Tensor::randn([2, 4, 6, 6], (Kind::Float, Device::Cpu));
        let y = x.conv2d(&w, None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1);
        (&y * &dy).sum(Kind::Float).backward();
        let wanted = ConvolutionGradients { input: true, weight: true, bias: false };
        let [dx, dw, db] = convolution_backward(&dy, &x.detach(), &w.detach(), 1, 1, wanted).expect("gradients");
        assert!(db.is_none());
        for (got, want) in [(dx, x.grad()), (dw, w.grad())] {
            assert!(f64::try_from((got.expect("a gradient") - want).abs().max()).expect("a number") < 1e-4);
        }
    }
}
