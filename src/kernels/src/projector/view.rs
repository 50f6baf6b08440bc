//! Where the rays of one view meet the lines of an image, in closed form.
//!
//! Lines are rows, or columns; a place is a position along a line; bins number the rays. All three are counted from 0 in
//! pixels (a bin is one wide) and may be fractions.

use std::ops::Range;

use super::Beam;
use crate::error::{Error, Result};

/// What the lines of an image are taken to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    Rows,
    Columns,
}

impl Axis {
    pub const BOTH: [Axis; 2] = [Axis::Rows, Axis::Columns];
}

/// Rays against lines.
pub trait Rays: Copy {
    /// Where the ray of this bin meets a line.
    fn place(self, bin: f64, line: f64) -> f64;
    /// The shadow of a point: the bin whose ray meets the line there.
    fn bin(self, line: f64, place: f64) -> f64;
    /// Of the ray, from one line to the next; 0 if it is followed along the other axis.
    fn length(self, bin: f64) -> f64;
}

/// place = first + step bin + slope line.
#[derive(Clone, Copy, Debug)]
pub struct Parallel {
    first: f64,
    step: f64,
    slope: f64,
    length: f64,
}

impl Rays for Parallel {
    #[inline(always)]
    fn place(self, bin: f64, line: f64) -> f64 {
        (self.first + self.slope * line) + self.step * bin
    }
    #[inline(always)]
    fn bin(self, line: f64, place: f64) -> f64 {
        (place - (self.first + self.slope * line)) * (1.0 / self.step)
    }
    #[inline(always)]
    fn length(self, _bin: f64) -> f64 {
        self.length
    }
}

/// A source, and the direction of each bin's ray: first + step bin. Vectors are (line, place).
#[derive(Clone, Copy, Debug)]
pub struct Fan {
    source: [f64; 2],
    first: [f64; 2],
    step: [f64; 2],
    /// A ray at exactly 45 degrees is followed along rows.
    ties: bool,
}

impl Fan {
    #[inline(always)]
    fn direction(self, bin: f64) -> [f64; 2] {
        [self.first[0] + self.step[0] * bin, self.first[1] + self.step[1] * bin]
    }
    #[inline(always)]
    fn follows(self, bin: f64) -> bool {
        let [along, across] = self.direction(bin).map(f64::abs);
        across < along || (self.ties && across == along)
    }
}

impl Rays for Fan {
    #[inline(always)]
    fn place(self, bin: f64, line: f64) -> f64 {
        let [along, across] = self.direction(bin);
        self.source[1] + (line - self.source[0]) * (across / along)
    }
    #[inline(always)]
    fn bin(self, line: f64, place: f64) -> f64 {
        let (along, across) = (line - self.source[0], place - self.source[1]);
        (across * self.first[0] - along * self.first[1]) / (along * self.step[1] - across * self.step[0])
    }
    #[inline(always)]
    fn length(self, bin: f64) -> f64 {
        let [along, across] = self.direction(bin);
        let slope = across / along;
        if self.follows(bin) {
            (1.0 + slope * slope).sqrt()
        } else {
            0.0
        }
    }
}

/// The rays of one angle that are followed along rows, and those along columns.
#[derive(Clone, Debug)]
pub struct View {
    rays: [Option<AnyRays>; 2],
}

/// One kind or the other. Loops over bins or pixels are compiled for each.
#[derive(Clone, Copy, Debug)]
pub enum AnyRays {
    Parallel(Parallel),
    Fan(Fan),
}

impl AnyRays {
    /// The bins whose rays meet a line of pixels.
    #[inline(always)]
    pub fn bins(self, line: usize, length: usize, bins: usize) -> Range<usize> {
        let ends = match self {
            AnyRays::Parallel(rays) => [-1.0, length as f64].map(|end| rays.bin(line as f64, end)),
            AnyRays::Fan(rays) => [-1.0, length as f64].map(|end| rays.bin(line as f64, end)),
        };
        let low = ends[0].min(ends[1]).clamp(0.0, bins as f64) as usize;
        let high = (ends[0].max(ends[1]) + 1.0).clamp(low as f64, bins as f64) as usize;
        low..high
    }
}

impl View {
    pub fn new([height, width]: [usize; 2], bins: usize, angle: f64, beam: Beam) -> Self {
        let centre = [(height as f64 - 1.0) / 2.0, (width as f64 - 1.0) / 2.0];
        let middle = (bins as f64 - 1.0) / 2.0;
        let rays = match beam {
            Beam::Parallel => parallel(centre, middle, angle),
            Beam::Fan { source, detector } => fan(centre, middle, bins, angle, [source, detector]),
        };
        View { rays }
    }

    /// Those followed along an axis, if there are any.
    pub fn rays(&self, axis: Axis) -> Option<AnyRays> {
        self.rays[axis as usize]
    }
}

/// The ray of bin b is all points with x cos + y sin = b - middle, x to the right and y upwards from the centre.
fn parallel([row, column]: [f64; 2], middle: f64, angle: f64) -> [Option<AnyRays>; 2] {
    let (sin, cos) = angle.sin_cos();
    let rays = if cos.abs() >= sin.abs() {
        Parallel {
            first: column - (middle + row * sin) / cos,
            step: 1.0 / cos,
            slope: sin / cos,
            length: 1.0 / cos.abs(),
        }
    } else {
        Parallel {
            first: row + (middle - column * cos) / sin,
            step: -1.0 / sin,
            slope: cos / sin,
            length: 1.0 / sin.abs(),
        }
    };
    let rays = Some(AnyRays::Parallel(rays));
    if cos.abs() >= sin.abs() {
        [rays, None]
    } else {
        [None, rays]
    }
}

/// The source at angle 0 stands below the image (towards its last row), the detector above it.
fn fan(
    [row, column]: [f64; 2],
    middle: f64,
    bins: usize,
    angle: f64,
    [source, detector]: [f64; 2],
) -> [Option<AnyRays>; 2] {
    let (sin, cos) = angle.sin_cos();
    // (x, y) of the source, of the first bin seen from it, and from bin to bin
    let from = [sin * source, -cos * source];
    let step = [cos, sin];
    let first = [-sin * (source + detector) - middle * cos, cos * (source + detector) - middle * sin];
    [Axis::Rows, Axis::Columns].map(|axis| {
        let turned = |[x, y]: [f64; 2]| if axis == Axis::Rows { [-y, x] } else { [x, -y] };
        let [line, place] = turned(from);
        let centre = if axis == Axis::Rows { [row, column] } else { [column, row] };
        let fan = Fan {
            source: [centre[0] + line, centre[1] + place],
            first: turned(first),
            step: turned(step),
            ties: axis == Axis::Rows,
        };
        (0..bins).any(|bin| fan.follows(bin as f64)).then_some(AnyRays::Fan(fan))
    })
}

/// Bins around its shadow among which are all whose rays pass a pixel at less than one pixel's distance along the line.
pub fn reach(height: usize, width: usize, beam: Beam) -> Result<usize> {
    let Beam::Fan { source, detector } = beam else { return Ok(1) };
    // of the image and one pixel around it
    let radius = (height as f64 / 2.0 + 1.0).hypot(width as f64 / 2.0 + 1.0);
    if !(source.is_finite() && source > radius) {
        return Err(Error::Misfit(format!(
            "the source is {source} from the centre; it must stand outside the image, {radius:.1}"
        )));
    }
    if !(detector.is_finite() && detector >= 0.0) {
        return Err(Error::Misfit(format!("the detector is {detector} from the centre; it must be at least 0")));
    }
    // Magnification is largest next to the source, and for slanting rays on a flat detector.
    let slant = radius / (source * source - radius * radius).sqrt();
    let most = (source + detector) / (source - radius) * slant.hypot(1.0);
    if most > 64.0 {
        return Err(Error::Misfit(format!(
            "the source is {source} from the centre: a pixel next to it covers {most:.0} bins"
        )));
    }
    Ok(most.ceil() as usize)
}
