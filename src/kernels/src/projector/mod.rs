//! X-ray projection of images, and its exact transpose, by Joseph's method (Joseph 1982, IEEE Trans. Med. Imaging 1).
//!
//! A ray is followed from line to line of the image: rows where it runs mostly down, columns where it runs mostly across.
//! On each line it meets two pixels, weighted linearly by their distance and by the ray's length from line to line.
//!
//! Projection and back projection are one loop ([`cell::Cell::gather`]) with one weight function ([`weights`]), run in two
//! directions: a bin gathers the pixels that its ray meets on a line, or a pixel gathers the bins whose rays meet it.
//! Nothing is scattered, so results are the same for any number of threads; images never meet, so for any batch too.

mod adjoint;
mod cell;
mod forward;
mod pack;
#[cfg(test)]
mod tests;
mod view;
mod weights;
mod workspace;

use crate::error::{check_len, Error, Result};
use crate::pool::Pool;
use cell::Cell;
pub use cell::Real;
use view::{Axis, View};
use weights::{Table, MARGIN};
use workspace::Workspace;

/// How rays reach a flat detector whose bins are one pixel wide.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Beam {
    Parallel,
    /// From a source that turns with the detector; distances in pixels from the centre of rotation.
    Fan {
        source: f64,
        detector: f64,
    },
}

/// The geometry of a scan: images of height x width pixels, one view per angle. At angle 0 the detector's bins run along
/// the columns of the image; angles, in radians, turn it counter-clockwise.
#[derive(Debug)]
pub struct Projector {
    height: usize,
    width: usize,
    bins: usize,
    views: Vec<View>,
    /// No ray meets a pixel whose shadow on the detector is this many bins away, or more.
    reach: usize,
    workspace: Workspace,
}

#[derive(Clone, Copy)]
enum Direction {
    Forward,
    Adjoint,
}

impl Projector {
    /// Sizes beyond this are a mistyped argument.
    pub const MAX_SIZE: usize = 1 << 16;

    /// # Errors
    /// When a size is 0 or absurd, there is no angle, one is not finite, or the source stands within the image.
    pub fn new(height: usize, width: usize, bins: usize, angles: &[f64], beam: Beam) -> Result<Self> {
        for (name, size) in [("height", height), ("width", width), ("bins", bins), ("number of angles", angles.len())] {
            if !(1..=Self::MAX_SIZE).contains(&size) {
                return Err(Error::Misfit(format!("{name} is {size}; it must be between 1 and {}", Self::MAX_SIZE)));
            }
        }
        if let Some(i) = angles.iter().position(|angle| !angle.is_finite()) {
            return Err(Error::Misfit(format!("angle {i} is {}; it must be finite", angles[i])));
        }
        let reach = view::reach(height, width, beam)?;
        let views = angles.iter().map(|&angle| View::new([height, width], bins, angle, beam)).collect();
        Ok(Projector { height, width, bins, views, reach, workspace: Workspace::default() })
    }

    /// Pixels of an image.
    pub fn pixels(&self) -> usize {
        self.height * self.width
    }

    /// Numbers of a sinogram.
    pub fn rays(&self) -> usize {
        self.views.len() * self.bins
    }

    /// y = K x: of images (N, height, width) the sinograms (N, angles, bins), written.
    ///
    /// # Errors
    /// When a length does not fit, or memory runs out.
    pub fn forward<T: Real>(&self, pool: &dyn Pool, images: usize, x: &[T], y: &mut [T]) -> Result {
        self.run(Direction::Forward, pool, images, x, y)
    }

    /// x = K' y: of sinograms (N, angles, bins) the images (N, height, width), written.
    ///
    /// # Errors
    /// When a length does not fit, or memory runs out.
    pub fn adjoint<T: Real>(&self, pool: &dyn Pool, images: usize, y: &[T], x: &mut [T]) -> Result {
        self.run(Direction::Adjoint, pool, images, y, x)
    }

    /// As many images at a time as suit the processor, and the rest.
    fn run<T: Real>(&self, direction: Direction, pool: &dyn Pool, images: usize, from: &[T], to: &mut [T]) -> Result {
        let (x, y) = (("x", self.pixels()), ("y", self.rays()));
        let (source, target) = match direction {
            Direction::Forward => (x, y),
            Direction::Adjoint => (y, x),
        };
        check_len(source.0, from.len(), images * source.1)?;
        check_len(target.0, to.len(), images * target.1)?;
        let rest = images % T::Batch::IMAGES;
        let full = images - rest;
        let (from, from_rest) = from.split_at(full * source.1);
        let (to, to_rest) = to.split_at_mut(full * target.1);
        if full > 0 {
            self.run_as::<T::Batch>(direction, pool, full, from, to)?;
        }
        match rest {
            0 => Ok(()),
            1 => self.run_as::<T::Single>(direction, pool, rest, from_rest, to_rest),
            _ if rest <= T::Few::IMAGES => self.run_as::<T::Few>(direction, pool, rest, from_rest, to_rest),
            _ => self.run_as::<T::Batch>(direction, pool, rest, from_rest, to_rest),
        }
    }

    fn run_as<C: Cell>(
        &self,
        direction: Direction,
        pool: &dyn Pool,
        images: usize,
        from: &[C::Number],
        to: &mut [C::Number],
    ) -> Result {
        match direction {
            Direction::Forward => forward::run::<C>(self, pool, images, from, to),
            Direction::Adjoint => adjoint::run::<C>(self, pool, images, from, to),
        }
    }

    /// Calls `each(ray, pixel, weight)` for every weight above `least`, by ascending ray and pixel.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn entries(&self, least: f64, mut each: impl FnMut(usize, usize, f64)) -> Result {
        let mut table = Table::<f64, 1>::new(2, self.bins, 0)?;
        let mut found = Vec::new();
        for (v, view) in self.views.iter().enumerate() {
            for axis in Axis::BOTH {
                let Some(rays) = view.rays(axis) else { continue };
                let steps = self.steps(axis);
                for line in 0..self.lines(axis) {
                    let first = table.fill_bins(rays, line, self.length(axis), self.bins).start;
                    let within = MARGIN..MARGIN + self.length(axis);
                    let entries = table.entries().filter(|(_, place, w)| *w > least && within.contains(place));
                    found.extend(entries.map(|(k, place, weight)| {
                        (v * self.bins + first + k, line * steps[0] + (place - MARGIN) * steps[1], weight)
                    }));
                }
            }
            found.sort_unstable_by_key(|&(ray, pixel, _)| (ray, pixel));
            found.drain(..).for_each(|(ray, pixel, weight)| each(ray, pixel, weight));
        }
        Ok(())
    }

    /// Lines along an axis.
    fn lines(&self, axis: Axis) -> usize {
        match axis {
            Axis::Rows => self.height,
            Axis::Columns => self.width,
        }
    }

    /// Pixels on each of them.
    fn length(&self, axis: Axis) -> usize {
        match axis {
            Axis::Rows => self.width,
            Axis::Columns => self.height,
        }
    }

    /// In the image, from line to line and from pixel to pixel.
    fn steps(&self, axis: Axis) -> [usize; 2] {
        match axis {
            Axis::Rows => [self.width, 1],
            Axis::Columns => [1, self.width],
        }
    }
}
