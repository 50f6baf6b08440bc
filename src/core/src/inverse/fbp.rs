//! Filtered back projection (Kak and Slaney 1988, chapter 3): section 3.3 with the kernel of equation 61 for parallel rays, section 3.4
//! with equally spaced collinear detectors for a fan.

use std::f64::consts::PI;

use diffusion_kernels::projector::Beam;
use tch::{Device, Kind, Tensor};

use super::operator::{check, LinearOperator};
use super::operators::ct::CtProjector;
use crate::choice::Choice;
use crate::error::Result;

/// What damps the ramp towards high frequencies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Filter {
    /// Nothing.
    #[default]
    RamLak,
    SheppLogan,
    Cosine,
    Hamming,
    Hann,
}

impl Choice for Filter {
    const WHAT: &'static str = "filter";
    const ALL: &'static [(&'static str, Self)] = &[
        ("ram-lak", Self::RamLak),
        ("shepp-logan", Self::SheppLogan),
        ("cosine", Self::Cosine),
        ("hamming", Self::Hamming),
        ("hann", Self::Hann),
    ];
}

impl Filter {
    /// At a share of the highest frequency.
    fn window(self, share: f64) -> f64 {
        let half = PI * share / 2.0;
        match self {
            Self::RamLak => 1.0,
            Self::SheppLogan if share == 0.0 => 1.0,
            Self::SheppLogan => half.sin() / half,
            Self::Cosine => half.cos(),
            Self::Hamming => 0.54 + 0.46 * (PI * share).cos(),
            Self::Hann => 0.5 + 0.5 * (PI * share).cos(),
        }
    }
}

/// Images (N, C, height, width) from sinograms, in their dtype and on their device. Angles are taken to be evenly spread
/// over half a turn, or whole ones.
pub fn reconstruct(ct: &CtProjector, y: &Tensor, filter: Filter) -> Result<Tensor> {
    check(y, ct.out_shape(), "y", "the operator's sinograms")?;
    let device = y.device();
    let at = if device == Device::Mps { Device::Cpu } else { device }; // float64 is needed
    let size = y.size();
    let views = ct.angles.len() as i64;
    let rows = y.f_to_device(at)?.f_reshape([size[0] * size[1], views, ct.bins])?;
    let filtered = filtered(ct, &rows, filter)?;
    let places = Places::new(ct, at)?;
    let mut x = Tensor::f_zeros([rows.size()[0], ct.height * ct.width], (y.f_kind()?, at))?;
    for (view, angle) in ct.angles.iter().enumerate() {
        let _ = x.f_add_(&places.smeared(&filtered.f_select(1, view as i64)?, *angle)?)?;
    }
    let x = x.f_mul_scalar(PI / views as f64)?.f_view([size[0], size[1], ct.height, ct.width])?;
    Ok(x.f_to_device(device)?)
}

/// Each row through the ramp, with zeros around it and two behind it for whoever reads beside it.
fn filtered(ct: &CtProjector, rows: &Tensor, filter: Filter) -> Result<Tensor> {
    let (kind, device) = (rows.f_kind()?, rows.device());
    let weighted = rows.f_mul(&obliquity(ct)?.f_to_kind(kind)?.f_to_device(device)?)?;
    let padded = (2 * ct.bins as usize).next_power_of_two().max(64);
    let response = response(padded, filter)?.f_to_kind(kind)?.f_to_device(device)?;
    // one picture after another: a transform of many may take another path, and give other bits, than that of one
    let one = |i: i64| {
        let modes = weighted.f_narrow(0, i, 1)?.f_fft_rfft(padded as i64, -1, "backward")?;
        let row = modes.f_mul(&response)?.f_fft_irfft(padded as i64, -1, "backward")?;
        Ok(row.f_narrow(-1, 0, ct.bins)?.f_constant_pad_nd([1, 2])?)
    };
    let each = (0..rows.size()[0]).map(one).collect::<Result<Vec<_>>>()?;
    Ok(Tensor::f_cat(&each, 0)?)
}

/// What rows are multiplied with before they are filtered: in a fan, the cosine of each ray's angle to the central one, and
/// one over the width of a bin as it appears at the centre of rotation.
fn obliquity(ct: &CtProjector) -> Result<Tensor> {
    let weights: Vec<f64> = match ct.beam {
        Beam::Parallel => vec![1.0; ct.bins as usize],
        Beam::Fan { source, detector } => {
            let width = source / (source + detector);
            let place = |bin: i64| (bin as f64 - (ct.bins as f64 - 1.0) / 2.0) * width;
            (0..ct.bins).map(|bin| source / source.hypot(place(bin)) / width).collect()
        }
    };
    Ok(Tensor::f_from_slice(&weights)?)
}

/// The ramp's frequency response, from its exact impulse response, which keeps the mean right.
fn response(size: usize, filter: Filter) -> Result<Tensor> {
    let impulse: Vec<f64> = (0..size)
        .map(|i| match i.min(size - i) {
            0 => 0.25,
            k if k % 2 == 0 => 0.0,
            k => -1.0 / (PI * k as f64).powi(2),
        })
        .collect();
    let ramp = Tensor::f_from_slice(&impulse)?.f_fft_rfft(None::<i64>, -1, "backward")?.f_real()?;
    let half = size / 2;
    let window: Vec<f64> = (0..=half).map(|k| filter.window(k as f64 / half as f64)).collect();
    Ok(ramp.f_mul(&Tensor::f_from_slice(&window)?)?)
}

/// The pixels as seen from the detector.
struct Places<'a> {
    ct: &'a CtProjector,
    /// To the right and upwards from the centre, (height * width) each, float64.
    x: Tensor,
    y: Tensor,
}

impl<'a> Places<'a> {
    fn new(ct: &'a CtProjector, device: Device) -> Result<Self> {
        let axis = |size: i64| -> Result<Tensor> {
            let places = Tensor::f_arange(size, (Kind::Double, device))?;
            Ok(places.f_sub_scalar((size as f64 - 1.0) / 2.0)?)
        };
        let plane = [ct.height, ct.width];
        let x = axis(ct.width)?.f_view([1, -1])?.f_expand(plane, false)?.f_reshape([-1])?;
        let y = axis(ct.height)?.f_neg()?.f_view([-1, 1])?.f_expand(plane, false)?.f_reshape([-1])?;
        Ok(Self { ct, x, y })
    }

    /// One view's filtered rows (pictures, bins and margins) drawn along its rays, linearly between bins.
    fn smeared(&self, rows: &Tensor, angle: f64) -> Result<Tensor> {
        let (sin, cos) = angle.sin_cos();
        let across = self.x.f_mul_scalar(cos)?.f_add(&self.y.f_mul_scalar(sin)?)?;
        let middle = (self.ct.bins as f64 - 1.0) / 2.0;
        let (bin, weight) = match self.ct.beam {
            Beam::Parallel => (across.f_add_scalar(middle)?, None),
            Beam::Fan { source, detector } => {
                let along = self.y.f_mul_scalar(cos)?.f_sub(&self.x.f_mul_scalar(sin)?)?;
                let closeness = along.f_add_scalar(source)?.f_reciprocal()?.f_mul_scalar(source)?;
                let bin = across.f_mul(&closeness)?.f_mul_scalar((source + detector) / source)?;
                (bin.f_add_scalar(middle)?, Some(closeness.f_square()?))
            }
        };
        let bin = bin.f_clamp(-1.0, self.ct.bins as f64)?;
        let left = bin.f_floor()?;
        let share = bin.f_sub(&left)?.f_to_kind(rows.f_kind()?)?;
        let index = left.f_to_kind(Kind::Int64)?.f_add_scalar(1)?;
        let (left, right) = (rows.f_index_select(1, &index)?, rows.f_index_select(1, &index.f_add_scalar(1)?)?);
        let drawn = left.f_add(&right.f_sub(&left)?.f_mul(&share)?)?;
        match weight {
            Some(weight) => Ok(drawn.f_mul(&weight.f_to_kind(rows.f_kind()?)?)?),
            None => Ok(drawn),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::operators::ct::{Distances, Geometry};
    use super::*;

    /// A disc of ones, soft at its edge.
    fn disc(size: i64) -> Tensor {
        let place = Tensor::arange(size, (Kind::Double, Device::Cpu)) - (size as f64 - 1.0) / 2.0;
        let radius = (place.square().view([-1, 1]) + place.square().view([1, -1])).sqrt();
        ((-radius + size as f64 / 4.0) / 2.0).sigmoid().view([1, 1, size, size])
    }

    #[test]
    fn a_disc_comes_back_from_parallel_and_from_fanned_rays() {
        for (geometry, turn) in [(Geometry::Parallel, PI), (Geometry::FanFlat, 2.0 * PI)] {
            let angles = (0..180).map(|i| turn * f64::from(i) / 180.0).collect();
            let distances = Distances { source: 150.0, detector: 50.0 };
            let ct = CtProjector::new([48, 48], angles, 96, geometry, distances).expect("a projector");
            let x = disc(48);
            let back = reconstruct(&ct, &ct.apply(&x).expect("a sinogram"), Filter::RamLak).expect("an image");
            let error = f64::try_from((back - x).square().mean(Kind::Double).sqrt()).expect("a number");
            assert!(error < 0.01, "{geometry:?}: {error}");
        }
    }
}
