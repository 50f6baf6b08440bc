//! Matrix products: in bfloat16 by a kernel in whole numbers where the processor makes those faster, otherwise by libtorch,
//! their rows shared out among our threads.

use std::ffi::{c_char, c_int};
use std::sync::{LazyLock, Mutex};

use diffusion_kernels::matrix::{by_columns, by_rows, Into, Rows};
use diffusion_kernels::pool::Pool;
use diffusion_kernels::simd;
use half::bf16;
use tch::{Kind, Tensor};
use torch_sys::C_tensor;

use super::{checked, slice, slice_mut, TorchPool, MESSAGE_SIZE};
use crate::error::{ensure, Result};
use crate::switches::Kernels;

static BY_KERNELS: LazyLock<bool> = LazyLock::new(simd::has_slow_bfloat16);

/// Narrower matrices are libtorch's: lines would be half empty.
const NARROW: i64 = 32;

extern "C" {
    fn shim_product_of_rows(
        out: *const C_tensor,
        a: *const C_tensor,
        b: *const C_tensor,
        bias: *const C_tensor,
        add: u8,
        first: i64,
        count: i64,
        message: *mut c_char,
        size: usize,
    ) -> c_int;
}

/// a b + bias; `a` is (rows, n), `b` (n, columns), bias (columns). Of bfloat16 it may be in float32.
pub fn product(a: &Tensor, b: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    if let (true, None, false) = (suit_kernels(a, b)?, bias, a.is_contiguous()) {
        let mut out = Tensor::f_empty([a.size2()?.0, b.size2()?.1], (Kind::Float, a.device()))?;
        let (a, b) = (a.f_transpose(0, 1)?.f_contiguous()?, b.f_contiguous()?);
        by_columns(&TorchPool, matrix(&a)?, matrix(&b)?, slice_mut(&mut out)?)?;
        return Ok(out);
    }
    let mut out = Tensor::f_empty([a.size2()?.0, b.size2()?.1], (a.f_kind()?, a.device()))?;
    multiply(&mut out, a, b, bias, false)?;
    Ok(out)
}

/// to += a b
pub fn add_product(to: &mut Tensor, a: &Tensor, b: &Tensor) -> Result<()> {
    multiply(to, a, b, None, true)
}

fn multiply(to: &mut Tensor, a: &Tensor, b: &Tensor, bias: Option<&Tensor>, add: bool) -> Result<()> {
    if !suit_kernels(a, b)? || !a.is_contiguous() || to.f_kind()? != Kind::BFloat16 {
        return shared_out(to, a, b, bias, add);
    }
    let rows_of_b = b.f_transpose(0, 1)?.f_contiguous()?;
    let bias = bias.map(slice).transpose()?;
    Ok(by_rows(&TorchPool, matrix(a)?, matrix(&rows_of_b)?, Into { y: slice_mut(to)?, add, bias })?)
}

/// Whether a kernel has something to gain: the same for any number of rows, so that bits do not depend on the batch.
fn suit_kernels(a: &Tensor, b: &Tensor) -> Result<bool> {
    let ((rows, depth), (_, columns)) = (a.size2()?, b.size2()?);
    let wide = if a.is_contiguous() { depth.min(columns) } else { rows.min(columns) };
    Ok(a.f_kind()? == Kind::BFloat16
        && b.f_kind()? == Kind::BFloat16
        && rows * depth * columns > 0
        && wide >= NARROW
        && *BY_KERNELS
        && Kernels::in_use() == Kernels::Avx512
        && diffusion_kernels::whole::<bf16>())
}

/// A contiguous matrix, as kernels take it.
fn matrix(x: &Tensor) -> Result<Rows<'_, bf16>> {
    let (count, width) = x.size2()?;
    Ok(Rows { data: slice(x)?, count: count as usize, width: width as usize, stride: width as usize })
}

fn shared_out(to: &Tensor, a: &Tensor, b: &Tensor, bias: Option<&Tensor>, add: bool) -> Result<()> {
    let ((rows, depth), (_, columns)) = (a.size2()?, b.size2()?);
    ensure!(to.size() == [rows, columns], Value, "a product of {rows} x {columns} cannot go into {:?}", to.size());
    let tasks = pieces(rows as usize, rows * depth * columns, TorchPool.threads());
    let operands = Operands {
        to: to.as_ptr(),
        a: a.as_ptr(),
        b: b.as_ptr(),
        bias: bias.map_or(std::ptr::null(), |bias| bias.as_ptr() as *const _),
        add,
    };
    let failure = Mutex::new(Ok(()));
    TorchPool.run(tasks, &|i| {
        let end = |i: usize| (i * rows as usize / tasks) as i64;
        if let Err(error) = operands.some_rows(end(i), end(i + 1)) {
            *failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Err(error);
        }
    })?;
    failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// In how many pieces a product is shared out: several for each thread where they stay large.
fn pieces(rows: usize, operations: i64, threads: usize) -> usize {
    const WORTHWHILE: i64 = 1 << 18;
    const MANY_ROWS: usize = 64;
    const FEW_ROWS: usize = 16;
    // Elsewhere than on Linux an operation does not stay on its thread.
    if operations < WORTHWHILE || !cfg!(target_os = "linux") {
        1
    } else if rows >= 4 * threads * MANY_ROWS {
        4 * threads
    } else {
        threads.min(rows / FEW_ROWS).max(1)
    }
}

struct Operands {
    to: *const C_tensor,
    a: *const C_tensor,
    b: *const C_tensor,
    bias: *const C_tensor,
    add: bool,
}

// SAFETY: the tensors live until all tasks have ended; these read handles, which libtorch allows on any thread, and write to
// rows of `to` that are theirs alone.
unsafe impl Sync for Operands {}

impl Operands {
    fn some_rows(&self, start: i64, end: i64) -> Result<()> {
        let Self { to, a, b, bias, add } = *self;
        // SAFETY: pointers to tensors that live through the call, and null for no bias.
        checked(|message| unsafe {
            shim_product_of_rows(to, a, b, bias, u8::from(add), start, end - start, message, MESSAGE_SIZE)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn pieces_give_what_the_whole_gives() {
        for (rows, depth, columns) in [(1, 3, 2), (3000, 64, 96), (40, 700, 64), (0, 3, 2)] {
            let random = |size: [i64; 2]| Tensor::randn(size, (Kind::Float, Device::Cpu));
            let (a, b, bias) = (random([rows, depth]), random([depth, columns]), random([1, columns]).view([columns]));
            let want = a.matmul(&b) + &bias;
            let mut got = product(&a, &b, Some(&bias)).expect("a product");
            assert!(got.allclose(&want, 1e-5, 1e-4, false));
            let transposed = a.tr().contiguous().tr();
            add_product(&mut got, &transposed, &b).expect("a product");
            assert!(got.allclose(&(want + a.matmul(&b)), 1e-5, 1e-4, false));
        }
    }

    #[test]
    fn bfloat16_is_rounded_no_more_than_its_results_are() {
        for (rows, depth, columns) in [(1, 40, 33), (300, 64, 96), (40, 700, 64), (64, 3, 64), (0, 32, 32)] {
            let random = |size: [i64; 2]| Tensor::randn(size, (Kind::BFloat16, Device::Cpu));
            let (a, b, bias) = (random([rows, depth]), random([depth, columns]), random([1, columns]).view([columns]));
            let exact = |x: &Tensor| x.to_kind(Kind::Double);
            let close = |got: &Tensor, want: &Tensor| {
                assert_eq!(got.size(), want.size());
                let scale = (depth as f64).sqrt();
                assert!(got.numel() == 0 || (exact(got) - want).abs().max().double_value(&[]) < 0.03 * scale);
            };
            let want = exact(&a).matmul(&exact(&b));
            let mut got = product(&a, &b, Some(&bias)).expect("a product");
            close(&got, &(&want + exact(&bias)));
            let before = exact(&got);
            add_product(&mut got, &a, &b).expect("a product");
            close(&got, &(before + &want));
            let transposed = a.tr().contiguous().tr();
            close(&product(&transposed, &b, None).expect("a product"), &want);
            close(&product(&a, &b.tr().contiguous().tr(), None).expect("a product"), &want);
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let zeros = |rows, columns| Tensor::zeros([rows, columns], (Kind::Float, Device::Cpu));
        assert!(product(&zeros(300, 300), &zeros(299, 300), None).is_err());
        assert!(add_product(&mut zeros(2, 2), &zeros(2, 3), &zeros(3, 3)).is_err());
    }
}
