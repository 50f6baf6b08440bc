//! Computed tomography: line integrals of an image along the rays of a scanner.

use std::sync::{Mutex, PoisonError};

use diffusion_kernels::projector::{Beam, Projector, Real};
use tch::{Device, Kind, Tensor};

use crate::choice::Choice;
use crate::error::{ensure, Error, Result};
use crate::inverse::operator::{LinearOperator, Shape};
use crate::libtorch::{slice, slice_mut, Plain, TorchPool};

/// How the rays reach a flat detector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Geometry {
    #[default]
    Parallel,
    /// From one point, to a flat detector.
    FanFlat,
}

impl Choice for Geometry {
    const WHAT: &'static str = "geometry";
    const ALL: &'static [(&'static str, Self)] = &[("parallel", Self::Parallel), ("fanflat", Self::FanFlat)];
}

/// Distances of a fan beam from the centre of rotation, in pixels.
#[derive(Debug, Clone, Copy)]
pub struct Distances {
    pub source: f64,
    pub detector: f64,
}

/// Images of height x width pixels to sinograms (N, C, angles, bins), each channel a picture of its own. Pixels and bins are
/// one wide; Joseph's method, in both directions with the same weights.
pub struct CtProjector {
    pub height: i64,
    pub width: i64,
    pub bins: i64,
    pub angles: Vec<f64>,
    pub beam: Beam,
    kernel: Projector,
    /// K and K' as sparse matrices, for devices that the kernel does not run on.
    matrices: Mutex<Vec<Matrices>>,
}

struct Matrices {
    kind: Kind,
    device: Device,
    forward: Tensor,
    adjoint: Tensor,
}

/// Weights below this are rounding errors of rays that pass a pixel at exactly one pixel's distance.
const LEAST_WEIGHT: f64 = 1e-12;

impl CtProjector {
    pub fn new(
        [height, width]: [i64; 2],
        angles: Vec<f64>,
        bins: i64,
        geometry: Geometry,
        distances: Distances,
    ) -> Result<Self> {
        let most = Projector::MAX_SIZE as i64;
        for (name, size) in [("img_shape", height), ("img_shape", width), ("det_size", bins)] {
            ensure!((1..=most).contains(&size), Value, "{name} must be between 1 and {most}, got {size}");
        }
        check_angles(&angles)?;
        let count = angles.len();
        ensure!(count as i64 <= most, Value, "angles must be at most {most}, got {count}");
        let beam = match geometry {
            Geometry::Parallel => Beam::Parallel,
            Geometry::FanFlat => {
                let Distances { source, detector } = distances;
                let radius = (height as f64 / 2.0).hypot(width as f64 / 2.0);
                // the kernel looks at one pixel around the image as well
                ensure!(
                    source.is_finite() && source >= 1.2 * radius + 3.0,
                    Value,
                    "source_origin must leave the image free, at least {:.1} for ({height}, {width}), got {source}",
                    1.2 * radius + 3.0
                );
                ensure!(
                    detector.is_finite() && detector >= 0.0,
                    Value,
                    "origin_det must be a finite number of at least 0, got {detector}"
                );
                Beam::Fan { source, detector }
            }
        };
        let kernel = Projector::new(height as usize, width as usize, bins as usize, &angles, beam);
        let kernel = kernel.map_err(|error| {
            Error::Value(format!("source_origin {} and origin_det {}: {error}", distances.source, distances.detector))
        })?;
        Ok(Self { height, width, bins, angles, beam, kernel, matrices: Mutex::default() })
    }

    fn run(&self, from: &Tensor, direction: Direction) -> Result<Tensor> {
        match from.device() {
            Device::Cpu => self.on_cpu(from, direction),
            Device::Cuda(_) => self.by_matrix(from, direction),
            // torch has no sparse products there
            device => Ok(self.on_cpu(&from.f_to_device(Device::Cpu)?, direction)?.f_to_device(device)?),
        }
    }

    /// Height and width of what a direction gives.
    fn plane(&self, direction: Direction) -> [i64; 2] {
        match direction {
            Direction::Forward => [self.angles.len() as i64, self.bins],
            Direction::Adjoint => [self.height, self.width],
        }
    }

    fn on_cpu(&self, from: &Tensor, direction: Direction) -> Result<Tensor> {
        match from.f_kind()? {
            Kind::Double => self.on_cpu_in::<f64>(from, direction),
            _ => self.on_cpu_in::<f32>(from, direction),
        }
    }

    fn on_cpu_in<T: Plain + Real>(&self, from: &Tensor, direction: Direction) -> Result<Tensor> {
        let (from, size) = (from.f_contiguous()?, from.size());
        let pictures = (size[0] * size[1]) as usize;
        let [height, width] = self.plane(direction);
        let mut to = Tensor::f_empty([size[0], size[1], height, width], (T::KIND, Device::Cpu))?;
        let (source, target) = (slice::<T>(&from)?, slice_mut::<T>(&mut to)?);
        match direction {
            Direction::Forward => self.kernel.forward(&TorchPool, pictures, source, target)?,
            Direction::Adjoint => self.kernel.adjoint(&TorchPool, pictures, source, target)?,
        }
        Ok(to)
    }

    /// The same by a product of torch's with a sparse matrix of the kernel's weights, which is made once.
    fn by_matrix(&self, from: &Tensor, direction: Direction) -> Result<Tensor> {
        let size = from.size();
        let columns = from.f_reshape([size[0] * size[1], size[2] * size[3]])?.f_transpose(0, 1)?;
        let (kind, device) = (from.f_kind()?, from.device());
        let mut kept = self.matrices.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.iter().position(|m| m.kind == kind && m.device == device);
        let index = match found {
            Some(index) => index,
            None => {
                kept.push(self.matrices_for(kind, device)?);
                kept.len() - 1
            }
        };
        let matrix = match direction {
            Direction::Forward => &kept[index].forward,
            Direction::Adjoint => &kept[index].adjoint,
        };
        let product = matrix.f_matmul(&columns.f_contiguous()?)?;
        let [height, width] = self.plane(direction);
        Ok(product.f_transpose(0, 1)?.f_contiguous()?.f_view([size[0], size[1], height, width])?)
    }

    fn matrices_for(&self, kind: Kind, device: Device) -> Result<Matrices> {
        let mut entries = Vec::new();
        self.kernel.entries(LEAST_WEIGHT, |ray, pixel, weight| entries.push((ray as i64, pixel as i64, weight)))?;
        let (rays, pixels) = (self.kernel.rays() as i64, self.kernel.pixels() as i64);
        let forward = sparse(&entries, [rays, pixels], kind, device)?;
        let mut entries: Vec<_> = entries.into_iter().map(|(ray, pixel, weight)| (pixel, ray, weight)).collect();
        entries.sort_unstable_by_key(|&(pixel, ray, _)| (pixel, ray));
        let adjoint = sparse(&entries, [pixels, rays], kind, device)?;
        Ok(Matrices { kind, device, forward, adjoint })
    }
}

impl LinearOperator for CtProjector {
    fn img_shape(&self) -> Shape {
        Shape::pictures(self.height, self.width)
    }
    fn out_shape(&self) -> Shape {
        Shape::pictures(self.angles.len() as i64, self.bins)
    }
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, Direction::Forward)
    }
    fn adjoint(&self, y: &Tensor) -> Result<Tensor> {
        self.run(y, Direction::Adjoint)
    }
    /// With fewer rays than pixels there is much that K does not see, of which the circulant matrix knows nothing.
    fn nearly_circulant(&self) -> bool {
        self.angles.len() as i64 * self.bins >= self.height * self.width
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Forward,
    Adjoint,
}

/// Finite, strictly ascending, and no more than two turns.
fn check_angles(angles: &[f64]) -> Result<()> {
    ensure!(!angles.is_empty(), Value, "angles must hold at least one angle");
    for (i, angle) in angles.iter().enumerate() {
        ensure!(angle.is_finite(), Value, "angles must be finite, got angles[{i}] = {angle}");
    }
    for (i, pair) in angles.windows(2).enumerate() {
        let (before, after) = (pair[0], pair[1]);
        let next = i + 1;
        ensure!(
            after > before,
            Value,
            "angles must ascend, got angles[{i}] = {before} and angles[{next}] = {after}; sort them, and the sinogram's rows"
        );
    }
    let span = angles[angles.len() - 1] - angles[0];
    ensure!(
        span <= 4.0 * std::f64::consts::PI,
        Value,
        "angles are in radians, got a range of {span:.4}; use numpy.deg2rad for degrees"
    );
    Ok(())
}

/// From (row, column, value) sorted by row and column.
fn sparse(entries: &[(i64, i64, f64)], size: [i64; 2], kind: Kind, device: Device) -> Result<Tensor> {
    let rows = entries.iter().map(|entry| entry.0);
    let places: Vec<i64> = rows.chain(entries.iter().map(|entry| entry.1)).collect();
    let values: Vec<f64> = entries.iter().map(|entry| entry.2).collect();
    let places = Tensor::f_from_slice(&places)?.f_view([2, -1])?.f_to_device(device)?;
    let values = Tensor::f_from_slice(&values)?.f_to_kind(kind)?.f_to_device(device)?;
    Ok(Tensor::f_sparse_coo_tensor_indices_size(&places, &values, size, (kind, device), false)?.f_coalesce()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISTANCES: Distances = Distances { source: 1800.0, detector: 500.0 };

    fn projector(geometry: Geometry) -> CtProjector {
        let angles = (0..9).map(|i| f64::from(i) * 0.34).collect();
        CtProjector::new([20, 24], angles, 34, geometry, DISTANCES).expect("a projector")
    }

    #[test]
    fn torchs_products_give_what_the_kernel_gives() {
        for geometry in [Geometry::Parallel, Geometry::FanFlat] {
            let ct = projector(geometry);
            let x = Tensor::randn([2, 3, 20, 24], (Kind::Double, Device::Cpu));
            let y = Tensor::randn([2, 3, 9, 34], (Kind::Double, Device::Cpu));
            for (from, direction) in [(&x, Direction::Forward), (&y, Direction::Adjoint)] {
                let kernel = ct.on_cpu(from, direction).expect("the kernel's");
                for _ in 0..2 {
                    let product = ct.by_matrix(from, direction).expect("a product");
                    assert_eq!(product.size(), kernel.size());
                    assert!(f64::try_from((product - &kernel).abs().max()).expect("a number") < 1e-10);
                }
            }
        }
    }

    #[test]
    fn geometries_that_make_no_sense_are_refused_in_words() {
        let error = |angles: &[f64], bins, geometry, source| {
            let distances = Distances { source, ..DISTANCES };
            let made = CtProjector::new([20, 24], angles.to_vec(), bins, geometry, distances);
            made.map(drop).expect_err("an error").to_string()
        };
        assert!(error(&[], 34, Geometry::Parallel, 1800.0).contains("at least one"));
        assert!(error(&[0.0, 2.0, 1.0], 34, Geometry::Parallel, 1800.0).contains("angles must ascend"));
        assert!(error(&[0.0, f64::NAN], 34, Geometry::Parallel, 1800.0).contains("finite"));
        assert!(error(&[0.0, 90.0], 34, Geometry::Parallel, 1800.0).contains("radians"));
        assert!(error(&[0.0], 0, Geometry::Parallel, 1800.0).contains("det_size"));
        assert!(error(&[0.0], 34, Geometry::FanFlat, 15.0).contains("source_origin"));
    }
}
