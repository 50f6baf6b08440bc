//! The memory of tensors as slices.

use std::ops::Range;

use diffusion_kernels::optim::{self, AdamW};
use diffusion_kernels::simd::element::Element;
use diffusion_kernels::sum;
use half::bf16;
use tch::{Device, Kind, Tensor};
use torch_sys::C_tensor;

use super::TorchPool;
use crate::error::{ensure, Result};

extern "C" {
    fn shim_is_alone(tensor: *const C_tensor) -> u8;
}

/// Elements that tensors and slices both know; any bytes are a value of theirs.
pub trait Plain: Copy {
    const KIND: Kind;
}

/// Those that kernels compute with.
pub trait Stored: Plain + Element {}

impl<T: Plain + Element> Stored for T {}

impl Plain for f32 {
    const KIND: Kind = Kind::Float;
}

impl Plain for f64 {
    const KIND: Kind = Kind::Double;
}

impl Plain for bf16 {
    const KIND: Kind = Kind::BFloat16;
}

impl Plain for u8 {
    const KIND: Kind = Kind::Uint8;
}

fn check_dense<T: Plain>(tensor: &Tensor) -> Result<usize> {
    ensure!(tensor.device() == Device::Cpu, Value, "a kernel needs a CPU tensor, got one on {:?}", tensor.device());
    let kind = tensor.f_kind()?;
    ensure!(kind == T::KIND, Type, "a kernel needs {:?}, got {kind:?}", T::KIND);
    ensure!(tensor.is_contiguous(), Value, "a kernel needs a contiguous tensor, got shape {:?}", tensor.size());
    Ok(tensor.numel())
}

/// The memory of a contiguous CPU tensor.
pub fn slice<T: Plain>(tensor: &Tensor) -> Result<&[T]> {
    let len = check_dense::<T>(tensor)?;
    if len == 0 {
        return Ok(&[]);
    }
    // SAFETY: dtype, device and density are checked; the storage lives as long as `tensor`. That nothing writes to it
    // meanwhile is kept by the callers: the engine's tensors are its own, a model's weights are borrowed for one pass.
    Ok(unsafe { std::slice::from_raw_parts(tensor.data_ptr() as *const T, len) })
}

/// The memory of a contiguous CPU tensor, to be written. The tensor must be the only way to that memory, as one that was
/// just made is: another handle on it, a view or a tensor of Python's would reach what is borrowed here.
pub fn slice_mut<T: Plain>(tensor: &mut Tensor) -> Result<&mut [T]> {
    let len = check_dense::<T>(tensor)?;
    // SAFETY: reads the counts of a tensor that lives through the call.
    let alone = unsafe { shim_is_alone(tensor.as_ptr()) } != 0;
    ensure!(alone, Value, "a kernel writes to memory of its own only, got a tensor that shares it");
    if len == 0 {
        return Ok(&mut []);
    }
    // SAFETY: as for `slice`; and nobody else has a handle on the memory, so the exclusive borrow of this one stands for it.
    Ok(unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr() as *mut T, len) })
}

/// What [`adamw_in_place`] changes, of one parameter.
pub struct InPlace<'a> {
    pub weights: &'a Tensor,
    pub first: &'a Tensor,
    pub second: &'a Tensor,
    /// The averaged weights and their decay.
    pub ema: (f64, &'a Tensor),
}

/// [`optim::step`] on tensors that others hold too: weights and their averages are the host's, moments lie side by side
/// in one block. As with torch's operations in place, nobody else may use them meanwhile.
pub fn adamw_in_place(adamw: &AdamW, scale: f32, gradient: &Tensor, state: &InPlace) -> Result<()> {
    let written = [state.weights, state.first, state.second, state.ema.1];
    let places = [gradient, state.weights, state.first, state.second, state.ema.1].map(place::<f32>);
    ensure!(apart(places), Value, "weights, their averages, moments and gradients must not overlap in memory");
    for tensor in written {
        check_dense::<f32>(tensor)?;
    }
    let [weights, first, second, shadow] = written.map(|tensor| {
        let (len, start) = (tensor.numel(), tensor.data_ptr() as *mut f32);
        // SAFETY: dtype, device and density are checked, and that no two of the slices overlap. They end with this call,
        // whose caller holds the tensors; that no other thread uses them is the contract above. No slice is made of no
        // elements, whose address may be none.
        if len == 0 {
            &mut []
        } else {
            unsafe { std::slice::from_raw_parts_mut(start, len) }
        }
    });
    let moments = optim::Moments { weights, first, second, ema: Some((state.ema.0, shadow)) };
    Ok(optim::step(&TorchPool, adamw, scale, slice(gradient)?, moments)?)
}

/// to += from, on tensors that others hold too, as a flat buffer's views are. As with torch's operations in place, nobody
/// else may use `to` meanwhile.
pub fn add_in_place(to: &Tensor, from: &Tensor) -> Result<()> {
    match (to.f_kind()?, from.f_kind()?) {
        (Kind::BFloat16, _) => add_in_place_of::<bf16, bf16>(to, from),
        (_, Kind::BFloat16) => add_in_place_of::<f32, bf16>(to, from),
        _ => add_in_place_of::<f32, f32>(to, from),
    }
}

fn add_in_place_of<T: Stored, F: Stored>(to: &Tensor, from: &Tensor) -> Result<()> {
    let len = check_dense::<T>(to)?;
    let places = [place::<T>(to), place::<F>(from)];
    let from = slice::<F>(from)?;
    if len == 0 {
        return Ok(());
    }
    ensure!(apart(places), Value, "a tensor and what is added to it must not overlap in memory");
    let start = to.data_ptr() as *mut T;
    // SAFETY: dtype, device and density are checked, and that what is read lies elsewhere; that no other thread uses it is
    // the contract above.
    let to = unsafe { std::slice::from_raw_parts_mut(start, len) };
    Ok(sum::add(&TorchPool, to, from)?)
}

/// The addresses of a dense tensor's elements.
fn place<T>(tensor: &Tensor) -> Range<usize> {
    let start = tensor.data_ptr() as usize;
    start..start + tensor.numel() * size_of::<T>()
}

/// Whether no two of these share an address.
fn apart<const N: usize>(mut places: [Range<usize>; N]) -> bool {
    places.sort_by_key(|place| place.start);
    places.windows(2).all(|pair| pair[0].end <= pair[1].start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dense_tensors_of_the_right_dtype_become_slices() {
        let mut t = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
        slice_mut::<f32>(&mut t).expect("a slice")[5] = 7.0;
        assert_eq!(t.double_value(&[1, 2]), 7.0);
        assert!(slice::<f32>(&t.transpose(0, 1)).is_err());
        assert!(slice::<bf16>(&t).is_err());
    }

    #[test]
    fn no_two_slices_to_write_to_share_memory() {
        let zeros = || Tensor::zeros([4], (Kind::Float, Device::Cpu));
        let mut tensor = zeros();
        let mut handle = tensor.shallow_clone();
        assert!(slice_mut::<f32>(&mut tensor).is_err() && slice_mut::<f32>(&mut handle).is_err());
        drop(handle);
        assert!(slice_mut::<f32>(&mut tensor).is_ok());
        for mut view in [tensor.view([2, 2]), tensor.narrow(0, 0, 2), tensor.detach()] {
            assert!(slice_mut::<f32>(&mut tensor).is_err() && slice_mut::<f32>(&mut view).is_err());
        }
        assert!(slice_mut::<f32>(&mut tensor).is_ok());
        let mut values = [1.0f32; 4];
        let outside = values.as_mut_ptr() as *const u8;
        // SAFETY: the array outlives the tensor and is not used meanwhile.
        let mut lent = unsafe { Tensor::from_blob(outside, &[4], &[1], Kind::Float, Device::Cpu) };
        assert!(slice_mut::<f32>(&mut lent).is_err());
    }

    #[test]
    fn a_view_of_what_is_gone_is_alone() {
        let made = || Tensor::zeros([4], (Kind::Float, Device::Cpu)).view([2, 2]).view([4, 1]);
        assert!(slice_mut::<f32>(&mut made()).is_ok());
        assert!(tch::no_grad(|| slice_mut::<f32>(&mut made()).is_ok()));
    }

    #[test]
    fn what_overlaps_is_not_added() {
        let all = Tensor::ones([6], (Kind::Float, Device::Cpu));
        let part = |start| all.narrow(0, start, 2);
        assert!(add_in_place(&part(0), &part(1)).is_err());
        assert!(add_in_place(&part(0), &all).is_err());
        add_in_place(&part(0), &part(2)).expect("a sum");
        add_in_place(&part(4), &part(2).to_kind(Kind::BFloat16)).expect("a sum");
        assert_eq!(Vec::<f32>::try_from(&all).expect("numbers"), [2.0, 2.0, 1.0, 1.0, 2.0, 2.0]);
    }

    #[test]
    fn an_update_in_place_takes_no_overlapping_tensors() {
        let all = Tensor::zeros([10], (Kind::Float, Device::Cpu));
        let part = |start| all.narrow(0, start, 2);
        let adamw = AdamW { learning_rate: 0.1, betas: (0.9, 0.99), eps: 1e-8, weight_decay: 0.0, step: 1 };
        let step = |starts: [i64; 5]| {
            let [gradient, weights, first, second, shadow] = starts.map(part);
            let state = InPlace { weights: &weights, first: &first, second: &second, ema: (0.5, &shadow) };
            adamw_in_place(&adamw, 1.0, &gradient, &state)
        };
        assert!(step([0, 2, 4, 6, 8]).is_ok());
        assert!(step([0, 2, 4, 5, 8]).is_err());
        assert!(step([0, 2, 4, 6, 2]).is_err());
        assert!(step([7, 2, 4, 6, 0]).is_err());
    }
}
