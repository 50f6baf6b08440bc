//! Convolutions, forward and backward: 3x3 by fast filtering, the rest by libtorch.
//!
//! Fast filtering multiplies in float32, or, what it reads in bfloat16, in whole numbers of 16 bits where the processor is fast
//! at that; either is ahead of libtorch's bfloat16.

use diffusion_kernels::conv::{self as kernel, Addends, Filter, Method};
use diffusion_kernels::source::Source;
use half::bf16;
use tch::{Kind, Tensor};

use super::ops::{images, kept, nchw, nhwc, WeightGradients};
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::libtorch::{add_in_place, convolution_backward, slice, slice_mut, ConvolutionGradients, Stored, TorchPool};
use crate::nn::blueprint::{Conv, Padding};

/// What a 3x3 convolution does to the size of the image.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Resize {
    Keep,
    /// Stride 2, with zeros around the image.
    Halve,
    /// Stride 2, with a row and a column of zeros after the image.
    HalveAfter,
    /// Nearest doubling before it.
    Double,
}

impl Resize {
    /// What a convolution that stands by itself does.
    pub fn of(conv: &Conv) -> Self {
        match (conv.stride, conv.padding == Padding::AFTER) {
            (2, true) => Self::HalveAfter,
            (2, false) => Self::Halve,
            _ => Self::Keep,
        }
    }

    /// F4 and its products in short sums round little more than a direct convolution does; samplers amplify the rounding of
    /// predictions by thousands in their first steps.
    fn method(self) -> Method {
        match self {
            Resize::Keep => Method::F4,
            Resize::Halve => Method::Downsample,
            Resize::HalveAfter => Method::DownsampleAfter,
            Resize::Double => Method::Upsample,
        }
    }
}

/// Nearest doubling of NHWC images.
fn double(x: &Tensor) -> Result<Tensor> {
    let (_, h, w, _) = x.size4()?;
    nhwc(&nchw(x)?.f_upsample_nearest2d([2 * h, 2 * w], None, None)?)
}

/// The gradient of [`double`]: sums over 2 x 2 pixels.
fn double_backward(dy: &Tensor) -> Result<Tensor> {
    nhwc(&nchw(dy)?.f_avg_pool2d([2, 2], [2, 2], [0, 0], false, true, 1)?)
}

/// The input as NCHW, doubled where that comes first and with uneven zeros added, and the even zeros that are left to add.
fn as_libtorch_reads(conv: &Conv, resize: Resize, x: &Tensor) -> Result<(Tensor, i64)> {
    let doubled = (resize == Resize::Double).then(|| double(x)).transpose()?;
    let x = nchw(doubled.as_ref().unwrap_or(x))?;
    let Padding { before, after } = conv.padding;
    if conv.padding.is_even() {
        return Ok((x, before));
    }
    Ok((x.f_constant_pad_nd([before, after, before, after])?, 0))
}

/// From the gradient of what [`as_libtorch_reads`] gave to that of its input, NHWC.
fn as_it_was(conv: &Conv, resize: Resize, dx: &Tensor) -> Result<Tensor> {
    let Padding { before, after } = conv.padding;
    let dx = if conv.padding.is_even() {
        nhwc(dx)?
    } else {
        let (_, _, h, w) = dx.size4()?;
        let (h, w) = (h - before - after, w - before - after);
        nhwc(&dx.f_narrow(2, before, h)?.f_narrow(3, before, w)?)?
    };
    match resize {
        Resize::Double => double_backward(&dx),
        _ => Ok(dx),
    }
}

/// A convolution with its bias, plus `residual`.
pub fn conv_forward(
    weights: &Weights,
    conv: &Conv,
    resize: Resize,
    x: &Tensor,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    if weights.is_fast(conv) {
        return match weights.kind {
            Kind::BFloat16 => fast_forward::<bf16>(weights, conv, resize, x, residual),
            _ => fast_forward::<f32>(weights, conv, resize, x, residual),
        };
    }
    let (weight, bias) = (weights.compute(conv.param)?, weights.compute(conv.param + 1)?);
    let (x, padding) = as_libtorch_reads(conv, resize, x)?;
    let y = nhwc(&x.f_conv2d(weight, Some(bias), [conv.stride; 2], [padding; 2], [1, 1], 1)?)?;
    if let Some(residual) = residual {
        add_in_place(&y, residual)?;
    }
    Ok(y)
}

fn fast_forward<T: Stored>(
    weights: &Weights,
    conv: &Conv,
    resize: Resize,
    x: &Tensor,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let (b, h, w, _) = x.size4()?;
    let method = resize.method();
    let (h, w) = (method.output_size(h as usize) as i64, method.output_size(w as usize) as i64);
    let mut y = Tensor::f_empty([b, h, w, conv.cout], (T::KIND, x.device()))?;
    let bias = Some(slice::<f32>(&weights.params[conv.param + 1])?);
    let residual = residual.map(slice::<T>).transpose()?;
    let addends = Addends { bias, residual };
    let source = Source::new(slice::<T>(x)?, conv.cin as usize);
    let (from, to) = (images(x)?, images(&y)?);
    let out = slice_mut::<T>(&mut y)?;
    let taps = slice::<f32>(&weights.params[conv.param])?;
    let filter = Filter::new(method, taps, conv.cout as usize, [conv.cin as usize, 0])?;
    kernel::convolve(&TorchPool, from, &source, &filter, &addends, to, out)?;
    Ok(y)
}

/// Gradients of [`conv_forward`] but for the residual, whose gradient is dy: the input's is returned if wanted, the
/// layer's are added to `grads`. `x` is read for the latter only.
pub fn conv_backward(
    weights: &Weights,
    conv: &Conv,
    resize: Resize,
    x: &Option<Tensor>,
    dy: &Tensor,
    input_wanted: bool,
    grads: &mut WeightGradients,
) -> Result<Option<Tensor>> {
    if !weights.is_fast(conv) {
        return libtorch_backward(weights, conv, resize, x, dy, input_wanted, grads);
    }
    match weights.kind {
        Kind::BFloat16 => fast_backward::<bf16>(weights, conv, resize, x, dy, input_wanted, grads),
        _ => fast_backward::<f32>(weights, conv, resize, x, dy, input_wanted, grads),
    }
}

fn libtorch_backward(
    weights: &Weights,
    conv: &Conv,
    resize: Resize,
    x: &Option<Tensor>,
    dy: &Tensor,
    input_wanted: bool,
    grads: &mut WeightGradients,
) -> Result<Option<Tensor>> {
    let layer_wanted = grads.wanted();
    let wanted = ConvolutionGradients { input: input_wanted, weight: layer_wanted, bias: layer_wanted };
    // without the layer's gradients only the shape of the input counts
    let input = match layer_wanted {
        true => kept(x)?.shallow_clone(),
        false => Tensor::f_zeros(input_shape(conv, resize, dy)?, (weights.kind, dy.device()))?,
    };
    let (read, padding) = as_libtorch_reads(conv, resize, &input)?;
    let weight = weights.compute(conv.param)?;
    let [dx, dw, db] = convolution_backward(&nchw(dy)?, &read, weight, conv.stride, padding, wanted)?;
    for (index, gradient) in [(conv.param, dw), (conv.param + 1, db)] {
        if let Some(gradient) = gradient {
            grads.add(index, &gradient.f_contiguous()?)?;
        }
    }
    dx.map(|dx| as_it_was(conv, resize, &dx)).transpose()
}

/// The shape (B, H, W, C) of what a convolution read, from that of what it wrote.
fn input_shape(conv: &Conv, resize: Resize, dy: &Tensor) -> Result<[i64; 4]> {
    let (b, h, w, _) = dy.size4()?;
    let (h, w) = match resize {
        Resize::Keep => (h, w),
        Resize::Halve | Resize::HalveAfter => (2 * h, 2 * w),
        Resize::Double => (h / 2, w / 2),
    };
    Ok([b, h, w, conv.cin])
}

fn fast_backward<T: Stored>(
    weights: &Weights,
    conv: &Conv,
    resize: Resize,
    x: &Option<Tensor>,
    dy: &Tensor,
    input_wanted: bool,
    grads: &mut WeightGradients,
) -> Result<Option<Tensor>> {
    if grads.wanted() {
        fast_layer_gradients::<T>(conv, resize, kept(x)?, dy, grads)?;
    }
    input_wanted.then(|| fast_input_gradient::<T>(weights, conv, resize, dy)).transpose()
}

fn fast_layer_gradients<T: Stored>(
    conv: &Conv,
    resize: Resize,
    x: &Tensor,
    dy: &Tensor,
    grads: &mut WeightGradients,
) -> Result<()> {
    let float = (Kind::Float, x.device());
    let mut dw = Tensor::f_empty([conv.cout, conv.cin, conv.kernel, conv.kernel], float)?;
    let mut db = Tensor::f_empty([conv.cout], float)?;
    kernel::weight_gradient(
        &TorchPool,
        resize.method(),
        images(x)?,
        &Source::new(slice::<T>(x)?, conv.cin as usize),
        images(dy)?,
        slice::<T>(dy)?,
        slice_mut::<f32>(&mut dw)?,
        Some(slice_mut::<f32>(&mut db)?),
    )?;
    grads.add(conv.param, &dw)?;
    grads.add(conv.param + 1, &db)
}

fn fast_input_gradient<T: Stored>(weights: &Weights, conv: &Conv, resize: Resize, dy: &Tensor) -> Result<Tensor> {
    let mut dx = Tensor::f_empty(input_shape(conv, resize, dy)?, (T::KIND, dy.device()))?;
    let method = resize.method();
    let source = Source::new(slice::<T>(dy)?, conv.cout as usize);
    let (from, to) = (images(dy)?, images(&dx)?);
    let out = slice_mut::<T>(&mut dx)?;
    let taps = slice::<f32>(&weights.params[conv.param])?;
    let filter = Filter::of_input_gradient(method, taps, conv.cout as usize, conv.cin as usize)?;
    kernel::convolve(&TorchPool, from, &source, &filter, &Addends::default(), to, out)?;
    Ok(dx)
}

/// As [`conv_backward`] with the input's gradient wanted.
pub fn conv_backward_whole(
    weights: &Weights,
    conv: &Conv,
    x: &Option<Tensor>,
    dy: &Tensor,
    grads: &mut WeightGradients,
) -> Result<Tensor> {
    conv_backward(weights, conv, Resize::Keep, x, dy, true, grads)?
        .ok_or_else(|| Error::Runtime("internal error: a convolution without a gradient".into()))
}
