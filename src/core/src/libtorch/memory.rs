//! The memory of tensors as slices.

use diffusion_kernels::simd::element::Element;
use half::bf16;
use tch::{Device, Kind, Tensor};

use crate::error::{ensure, Result};

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

/// The memory of a contiguous CPU tensor, to be written.
pub fn slice_mut<T: Plain>(tensor: &mut Tensor) -> Result<&mut [T]> {
    let len = check_dense::<T>(tensor)?;
    if len == 0 {
        return Ok(&mut []);
    }
    // SAFETY: as above; the exclusive borrow of the handle stands for the storage, whose other views are not used meanwhile.
    Ok(unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr() as *mut T, len) })
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
}
