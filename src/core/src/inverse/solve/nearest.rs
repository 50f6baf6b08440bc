//! The circulant matrix next to K'K, for operators whose K'K has no closed form: systems with it are solved near it first.

use tch::{Device, Kind, Tensor};

use super::circulant::Circulant;
use crate::error::Result;
use crate::inverse::operator::{normal, LinearOperator, Shape};

/// So many pixels are looked at.
const PIXELS: usize = 64;
/// Of large images, all of them would be gigabytes.
const AT_A_TIME: usize = 16;
/// Steps of an additive sequence in the plane, from the plastic number (Roberts 2018): its points lie evenly, and share no
/// period with the blocks and grids of operators.
const STEPS: [f64; 2] = [0.754_877_666_246_692_7, 0.569_840_290_998_053_2];

/// What K'K makes of a pixel, seen from that pixel, on average over the image.
pub fn nearest(operator: &dyn LinearOperator, device: Device) -> Result<Circulant> {
    let Shape { channels, height, width } = operator.img_shape();
    let channels = channels.unwrap_or(1);
    let along = |i: usize, axis: usize, side: i64| (((i + 1) as f64 * STEPS[axis]).fract() * side as f64) as i64;
    let places: Vec<[i64; 3]> =
        (0..PIXELS).map(|i| [i as i64 % channels, along(i, 0, height), along(i, 1, width)]).collect();
    // it need not be exact: elsewhere float64 is slow, or not there
    let kind = if device == Device::Cpu { operator.precision() } else { Kind::Float };
    let mut sum = Tensor::f_zeros([height, width], (Kind::Double, Device::Cpu))?;
    for places in places.chunks(AT_A_TIME) {
        let pixels = Tensor::f_zeros([places.len() as i64, channels, height, width], (kind, Device::Cpu))?;
        for (i, &[channel, row, column]) in places.iter().enumerate() {
            let _ = pixels.f_get(i as i64)?.f_get(channel)?.f_get(row)?.f_get(column)?.f_fill_(1.0)?;
        }
        let spread = normal(operator, &pixels.f_to_device(device)?)?;
        let spread = spread.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?;
        for (i, &[channel, row, column]) in places.iter().enumerate() {
            let _ = sum.f_add_(&spread.f_get(i as i64)?.f_get(channel)?.f_roll([-row, -column], [0, 1])?)?;
        }
    }
    let modes = sum.f_div_scalar(PIXELS as f64)?.f_fft_rfft2([height, width].as_slice(), [-2, -1], "backward")?;
    Ok(Circulant::with(modes.f_real()?.f_clamp_min(0.0)?.f_contiguous()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inverse::operators::blur::{Blurring, Boundary};

    #[test]
    fn what_is_circulant_is_found_exactly() {
        let kernel = Tensor::from_slice(&[0.1, 0.3, -0.2, 0.5, 0.2, 0.1]).view([2, 3]);
        let blur = Blurring::new(&kernel, Boundary::Circular, 8, 12).expect("a blur");
        let want = Circulant::new(&kernel.to_kind(Kind::Double), 8, 12).expect("a spectrum");
        let got = nearest(&blur, Device::Cpu).expect("a spectrum");
        assert!((got.values() - want.values()).abs().max().double_value(&[]) < 1e-12);
    }
}
