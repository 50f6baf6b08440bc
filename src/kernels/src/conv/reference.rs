//! The layers by their definitions, in f64: what the tests hold results against.

use super::Method;
use crate::source::Images;

/// The layer by its definition, in f64: doubling if asked for, then 3 x 3 with its padding and stride.
pub fn direct(images: Images, x: &[f64], inputs: usize, w: &[f32], outputs: usize, method: Method) -> Vec<f64> {
    let (h, wd) = (images.height, images.width);
    let (scale, stride) = scales(method);
    let to = output(images, method);
    let mut y = vec![0.0; to.batch * to.pixels() * outputs];
    for_taps(to, stride, before(method), [h * scale, wd * scale], |b, at, [iy, ix], tap| {
        let from = &x[((b * h + iy / scale) * wd + ix / scale) * inputs..][..inputs];
        for (o, y) in y[at * outputs..(at + 1) * outputs].iter_mut().enumerate() {
            let taps = (0..inputs).map(|i| f64::from(w[(o * inputs + i) * 9 + tap]));
            *y += from.iter().zip(taps).map(|(x, w)| x * w).sum::<f64>();
        }
    });
    y
}

/// The transpose of [`direct`] in x.
pub fn direct_gradient(
    images: Images,
    dy: &[f64],
    inputs: usize,
    w: &[f32],
    outputs: usize,
    method: Method,
) -> Vec<f64> {
    let (h, wd) = (images.height, images.width);
    let (scale, stride) = scales(method);
    let mut dx = vec![0.0; images.batch * images.pixels() * inputs];
    for_taps(output(images, method), stride, before(method), [h * scale, wd * scale], |b, at, [iy, ix], tap| {
        let to = &mut dx[((b * h + iy / scale) * wd + ix / scale) * inputs..][..inputs];
        for (o, dy) in dy[at * outputs..(at + 1) * outputs].iter().enumerate() {
            for (i, to) in to.iter_mut().enumerate() {
                *to += dy * f64::from(w[(o * inputs + i) * 9 + tap]);
            }
        }
    });
    dx
}

/// How much the input is enlarged first, and the stride.
pub fn scales(method: Method) -> (usize, usize) {
    match method {
        Method::F4 => (1, 1),
        Method::Upsample => (2, 1),
        Method::Downsample | Method::DownsampleAfter => (1, 2),
    }
}

/// Zeros before the input.
pub fn before(method: Method) -> usize {
    usize::from(method != Method::DownsampleAfter)
}

pub fn output(images: Images, method: Method) -> Images {
    let size = |s| method.output_size(s);
    Images { batch: images.batch, height: size(images.height), width: size(images.width) }
}

/// Calls `body` with image, output pixel, input place and tap, for every tap that meets the input.
pub fn for_taps(
    to: Images,
    stride: usize,
    before: usize,
    size: [usize; 2],
    mut body: impl FnMut(usize, usize, [usize; 2], usize),
) {
    for b in 0..to.batch {
        for (oy, ox) in (0..to.height).flat_map(|y| (0..to.width).map(move |x| (y, x))) {
            for tap in 0..9 {
                let iy = (oy * stride + tap / 3).wrapping_sub(before);
                let ix = (ox * stride + tap % 3).wrapping_sub(before);
                if iy < size[0] && ix < size[1] {
                    body(b, (b * to.height + oy) * to.width + ox, [iy, ix], tap);
                }
            }
        }
    }
}

/// The gradients of weights and bias by the definition, in f64.
pub fn direct_weight_gradient(
    images: Images,
    x: &[f64],
    inputs: usize,
    dy: &[f64],
    outputs: usize,
    method: Method,
) -> [Vec<f64>; 2] {
    let (h, wd) = (images.height, images.width);
    let (scale, stride) = scales(method);
    let mut dw = vec![0.0; outputs * inputs * 9];
    for_taps(output(images, method), stride, before(method), [h * scale, wd * scale], |b, at, [iy, ix], tap| {
        let from = &x[((b * h + iy / scale) * wd + ix / scale) * inputs..][..inputs];
        for (o, dy) in dy[at * outputs..(at + 1) * outputs].iter().enumerate() {
            for (i, x) in from.iter().enumerate() {
                dw[(o * inputs + i) * 9 + tap] += dy * x;
            }
        }
    });
    let sum = |o: usize| dy.iter().skip(o).step_by(outputs).sum();
    [dw, (0..outputs).map(sum).collect()]
}
