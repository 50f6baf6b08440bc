//! Blurring: correlation with a kernel, under four conventions for what lies beyond the edges.

use diffusion_kernels::conv::correlate::{correlate, Real, Tap};
use tch::{Device, Kind, Tensor};

use crate::choice::Choice;
use crate::error::{ensure, Result};
use crate::inverse::operator::{LinearOperator, Shape};
use crate::inverse::solve::circulant::Circulant;
use crate::inverse::solve::constant::Constant;
use crate::inverse::solve::spectrum::{self, Spectrum};
use crate::libtorch::{is_finite, slice, slice_mut, Plain, TorchPool};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Boundary {
    /// Nothing: y is as large as x.
    #[default]
    Zero,
    /// The opposite side.
    Circular,
    /// The picture mirrored in its outermost pixels, which are not repeated.
    Reflect,
    /// Not needed: only pixels whose whole surroundings are known.
    Valid,
}

impl Choice for Boundary {
    const WHAT: &'static str = "boundary";
    const ALL: &'static [(&'static str, Self)] =
        &[("zero", Self::Zero), ("circular", Self::Circular), ("reflect", Self::Reflect), ("valid", Self::Valid)];
}

/// y[i, j] = sum of kernel[u, v] x[i + u - centre, j + v - centre], the centre being half the kernel's size, rounded down.
pub struct Blurring {
    boundary: Boundary,
    height: i64,
    width: i64,
    /// Float64 on the CPU.
    kernel: Constant,
    size: [i64; 2],
    taps: Vec<Tap<f64>>,
    spectrum: Option<Circulant>,
}

impl Blurring {
    pub fn new(kernel: &Tensor, boundary: Boundary, height: i64, width: i64) -> Result<Self> {
        let kernel = kernel.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?.f_contiguous()?;
        let size = kernel.size();
        ensure!(size.len() == 2 && kernel.numel() > 0, Value, "kernel must have shape (k, l), got {size:?}");
        ensure!(is_finite(&kernel)?, Value, "kernel must be finite");
        let fits = size[0] <= height && size[1] <= width;
        ensure!(
            boundary == Boundary::Zero || fits,
            Value,
            "kernel of shape {size:?} is larger than the images ({height}, {width}); only boundary=\"zero\" takes that"
        );
        let spectrum = match boundary {
            Boundary::Circular => Some(Circulant::new(&kernel, height, width)?),
            _ => None,
        };
        let taps = slice::<f64>(&kernel)?.iter().enumerate().filter(|(_, weight)| **weight != 0.0);
        let place = |k: usize| ((k as i64 / size[1]) as isize, (k as i64 % size[1]) as isize);
        let taps = taps.map(|(k, weight)| Tap { down: place(k).0, right: place(k).1, weight: *weight }).collect();
        let size = [size[0], size[1]];
        Ok(Self { boundary, height, width, kernel: Constant::new(kernel), size, taps, spectrum })
    }

    /// Rows above and below, columns left and right, that the kernel reaches beyond a pixel.
    fn margins(&self) -> [(i64, i64); 2] {
        self.size.map(|size| (size / 2, size - 1 - size / 2))
    }

    /// Sizes of the picture that the correlation itself sees, edges included, and of what it makes of it.
    fn planes(&self) -> ([i64; 2], [i64; 2]) {
        let [(above, below), (left, right)] = self.margins();
        let (height, width) = (self.height, self.width);
        match self.boundary {
            Boundary::Valid => ([height, width], [height - above - below, width - left - right]),
            _ => ([height + above + below, width + left + right], [height, width]),
        }
    }
}

/// In float64 off the CPU, where torch's convolutions may round float32 to ten bits (TF32), and a kernel costs next to nothing.
fn precise(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_to_kind(spectrum::precise(x))?)
}

impl LinearOperator for Blurring {
    fn img_shape(&self) -> Shape {
        Shape::pictures(self.height, self.width)
    }

    fn out_shape(&self) -> Shape {
        let [height, width] = self.planes().1;
        Shape::pictures(height, width)
    }

    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let (seen, made) = self.planes();
        let padded = match self.boundary {
            Boundary::Valid => x.shallow_clone(),
            boundary => widened(x, self.margins(), boundary)?,
        };
        if x.device() == Device::Cpu {
            return correlated(&padded, &self.taps, seen, made);
        }
        let (flat, kernel) = (precise(&pictures(&padded, seen)?)?, precise(&self.kernel_for(x)?)?);
        let made_flat = flat.f_conv2d(&kernel, None::<Tensor>, [1, 1], [0, 0], [1, 1], 1)?;
        back_to_batch(&made_flat.f_to_kind(x.kind())?, x, made)
    }

    fn adjoint(&self, y: &Tensor) -> Result<Tensor> {
        let (seen, made) = self.planes();
        let spread = if y.device() == Device::Cpu {
            let back = |tap: &Tap<f64>| Tap { down: -tap.down, right: -tap.right, ..*tap };
            correlated(y, &self.taps.iter().map(back).collect::<Vec<_>>(), made, seen)?
        } else {
            let (flat, kernel) = (precise(&pictures(y, made)?)?, precise(&self.kernel_for(y)?)?);
            let spread = flat.f_conv_transpose2d(&kernel, None::<Tensor>, [1, 1], [0, 0], [0, 0], 1, [1, 1])?;
            back_to_batch(&spread.f_to_kind(y.kind())?, y, seen)?
        };
        match self.boundary {
            Boundary::Valid => Ok(spread),
            boundary => folded(&spread, self.margins(), boundary),
        }
    }

    fn spectrum(&self) -> Option<&dyn Spectrum> {
        self.spectrum.as_ref().map(|spectrum| spectrum as &dyn Spectrum)
    }
}

impl Blurring {
    fn kernel_for(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.kernel.like(x, x.kind())?.f_unsqueeze(0)?.f_unsqueeze(0)?)
    }
}

/// (N, C, H, W) as (N C, 1, H, W).
fn pictures(x: &Tensor, plane: [i64; 2]) -> Result<Tensor> {
    Ok(x.f_reshape([-1, 1, plane[0], plane[1]])?)
}

fn back_to_batch(flat: &Tensor, like: &Tensor, plane: [i64; 2]) -> Result<Tensor> {
    Ok(flat.f_view([like.size()[0], like.size()[1], plane[0], plane[1]])?)
}

/// The kernel library's correlation on the memory of tensors.
fn correlated(x: &Tensor, taps: &[Tap<f64>], from: [i64; 2], to: [i64; 2]) -> Result<Tensor> {
    match x.f_kind()? {
        Kind::Double => correlated_as::<f64>(x, taps.to_vec(), from, to),
        _ => correlated_as::<f32>(x, taps.iter().map(|tap| single(*tap)).collect(), from, to),
    }
}

fn single(Tap { down, right, weight }: Tap<f64>) -> Tap<f32> {
    Tap { down, right, weight: weight as f32 }
}

fn correlated_as<T: Plain + Real>(x: &Tensor, taps: Vec<Tap<T>>, from: [i64; 2], to: [i64; 2]) -> Result<Tensor> {
    let x = x.f_contiguous()?;
    let size = x.size();
    let mut y = Tensor::f_empty([size[0], size[1], to[0], to[1]], (T::KIND, Device::Cpu))?;
    let sizes = |plane: [i64; 2]| plane.map(|n| n as usize);
    correlate(&TorchPool, &taps, sizes(from), slice::<T>(&x)?, sizes(to), slice_mut::<T>(&mut y)?)?;
    Ok(y)
}

/// The picture with margins around it, as the boundary says.
fn widened(x: &Tensor, margins: [(i64, i64); 2], boundary: Boundary) -> Result<Tensor> {
    let [(above, below), (left, right)] = margins;
    if boundary == Boundary::Zero {
        return Ok(x.f_constant_pad_nd([left, right, above, below])?);
    }
    let mut wide = x.shallow_clone();
    for (dim, (before, after)) in [(2, margins[0]), (3, margins[1])] {
        let places = sources(wide.size()[dim as usize], before, after, boundary);
        wide = wide.f_index_select(dim, &Tensor::f_from_slice(&places)?.f_to_device(x.device())?)?;
    }
    Ok(wide)
}

/// The transpose of [`widened`]: what lies in the margins is added to where it came from.
fn folded(wide: &Tensor, margins: [(i64, i64); 2], boundary: Boundary) -> Result<Tensor> {
    let mut x = wide.shallow_clone();
    for (dim, (before, after)) in [(2, margins[0]), (3, margins[1])] {
        let size = x.size()[dim as usize] - before - after;
        let inside = x.f_narrow(dim, before, size)?.f_detach_copy()?;
        if boundary != Boundary::Zero {
            let places = sources(size, before, after, boundary);
            let outside = (0..before).chain(before + size..before + size + after);
            for place in outside {
                let _ = inside.f_select(dim, places[place as usize])?.f_add_(&x.f_select(dim, place)?)?;
            }
        }
        x = inside;
    }
    Ok(x)
}

/// Which of `size` places each place of a widened line shows.
fn sources(size: i64, before: i64, after: i64, boundary: Boundary) -> Vec<i64> {
    let mirrored = |place: i64| {
        let period = 2 * (size - 1).max(1);
        let place = place.rem_euclid(period);
        place.min(period - place).min(size - 1)
    };
    (-before..size + after)
        .map(|place| if boundary == Boundary::Circular { place.rem_euclid(size) } else { mirrored(place) })
        .collect()
}
