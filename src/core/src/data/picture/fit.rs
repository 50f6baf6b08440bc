//! Bringing a picture to the size of its set.
//!
//! The filter is Pillow's bilinear resize, which is what torchvision's `Resize(..., antialias=True)` does to a PIL image: a
//! triangle whose support grows with the reduction, in fixed point, the rows first and then the columns.

use std::fmt;

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{CropBox, FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use super::{Picture, Pixels};
use crate::choice::Choice;
use crate::data::decode::DecodeError;

/// What is done about a picture whose proportions are not those of the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// It is stretched, as the course does.
    Stretch,
    /// What stands over on two opposite sides is cut off: Pillow's `ImageOps.fit`.
    Crop,
    /// All of it is shown, between black bars: Pillow's `ImageOps.pad`.
    Pad,
}

impl Choice for Fit {
    const WHAT: &'static str = "fit";
    const ALL: &'static [(&'static str, Self)] = &[("stretch", Fit::Stretch), ("crop", Fit::Crop), ("pad", Fit::Pad)];
}

/// Height and width in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub height: u32,
    pub width: u32,
}

impl Size {
    pub fn square(side: u32) -> Size {
        Size { height: side, width: side }
    }

    pub fn pixels(self) -> usize {
        self.height as usize * self.width as usize
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Size { height, width } if height == width => write!(f, "{height}"),
            Size { height, width } => write!(f, "{height} x {width}"),
        }
    }
}

/// `picture` (1 or 3 channels) at exactly `size`.
pub fn fit(picture: Picture, size: Size, how: Fit) -> Result<Picture, DecodeError> {
    let from = Size { height: picture.height, width: picture.width };
    let whole = CropBox { left: 0.0, top: 0.0, width: from.width.into(), height: from.height.into() };
    match how {
        _ if from == size => Ok(picture),
        Fit::Stretch => resize(&picture, whole, size),
        Fit::Crop => {
            let part = CropBox::fit_src_into_dst_size(from.width, from.height, size.width, size.height, None);
            resize(&picture, part, size)
        }
        Fit::Pad => Ok(pad(&resize(&picture, whole, within(from, size))?, size)),
    }
}

/// The part `from` of a picture, filtered to the size `to`.
fn resize(picture: &Picture, from: CropBox, to: Size) -> Result<Picture, DecodeError> {
    let channels = picture.channels;
    let (source, kind) = match (&picture.pixels, channels) {
        (Pixels::U8(samples), 1) => (samples.as_slice(), PixelType::U8),
        (Pixels::U8(samples), _) => (samples.as_slice(), PixelType::U8x3),
        (Pixels::U16(samples), 1) => (bytemuck::cast_slice(samples), PixelType::U16),
        (Pixels::U16(samples), _) => (bytemuck::cast_slice(samples), PixelType::U16x3),
    };
    // Two calls fix the order of the passes: the library alone would do the columns first, which rounds differently.
    let source = ImageRef::new(picture.width, picture.height, source, kind).map_err(failed)?;
    let mut rows = Image::new(to.width, picture.height, kind);
    let mut result = Image::new(to.width, to.height, kind);
    let filter = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear)).use_alpha(false);
    let mut resizer = Resizer::new();
    resizer
        .resize(&source, &mut rows, &filter.crop(from.left, 0.0, from.width, picture.height.into()))
        .map_err(failed)?;
    resizer.resize(&rows, &mut result, &filter.crop(0.0, from.top, to.width.into(), from.height)).map_err(failed)?;
    let pixels = match &picture.pixels {
        Pixels::U8(_) => Pixels::U8(result.into_vec()),
        Pixels::U16(_) => Pixels::U16(bytemuck::pod_collect_to_vec(result.buffer())),
    };
    Ok(Picture { width: to.width, height: to.height, channels, pixels })
}

/// The largest size of the proportions of `from` that has room in `size`, with Pillow's rounding.
fn within(from: Size, size: Size) -> Size {
    let [height, width] = [from.height, from.width].map(f64::from);
    let scaled = |side: u32, ratio: f64| (f64::from(side) * ratio).round_ties_even().max(1.0) as u32;
    if width / height > f64::from(size.width) / f64::from(size.height) {
        Size { height: scaled(size.width, height / width), width: size.width }
    } else {
        Size { height: size.height, width: scaled(size.height, width / height) }
    }
}

/// `picture` in the middle of a black one.
fn pad(picture: &Picture, size: Size) -> Picture {
    let before = |outer: u32, inner: u32| (f64::from(outer - inner) / 2.0).round_ties_even() as usize;
    let (top, left) = (before(size.height, picture.height), before(size.width, picture.width));
    let pixels = match &picture.pixels {
        Pixels::U8(samples) => Pixels::U8(framed(samples, picture, size, top, left)),
        Pixels::U16(samples) => Pixels::U16(framed(samples, picture, size, top, left)),
    };
    Picture { width: size.width, height: size.height, channels: picture.channels, pixels }
}

fn framed<T: Copy + Default>(samples: &[T], picture: &Picture, size: Size, top: usize, left: usize) -> Vec<T> {
    let mut result = vec![T::default(); size.pixels() * picture.channels];
    let [row, line] = [picture.width, size.width].map(|width| width as usize * picture.channels);
    let places = result.chunks_exact_mut(line).skip(top);
    for (place, samples) in places.zip(samples.chunks_exact(row)) {
        place[left * picture.channels..][..row].copy_from_slice(samples);
    }
    result
}

fn failed(error: impl fmt::Display) -> DecodeError {
    DecodeError::Content(format!("cannot be resized: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(width: u32, height: u32, pixels: Pixels) -> Picture {
        Picture { width, height, channels: 1, pixels }
    }

    #[test]
    fn halving_weighs_the_neighbours_as_a_triangle() {
        // An output pixel sees its two inputs with weight 3/8 and the next ones with 1/8; at the border that is 3/7 and 1/7.
        let picture = grey(4, 1, Pixels::U8(vec![0, 0, 80, 80]));
        let small = fit(picture, Size::square(2), Fit::Stretch).unwrap();
        assert_eq!(small.pixels, Pixels::U8(vec![11, 69, 11, 69]));
    }

    #[test]
    fn a_constant_stays_constant_in_both_depths() {
        let deep = fit(grey(7, 5, Pixels::U16(vec![54321; 35])), Size::square(16), Fit::Stretch).unwrap();
        assert_eq!(deep.pixels, Pixels::U16(vec![54321; 256]));
        let colour = Picture { width: 40, height: 30, channels: 3, pixels: Pixels::U8([1, 2, 3].repeat(1200)) };
        for how in [Fit::Stretch, Fit::Crop] {
            let small = fit(colour.clone(), Size { height: 4, width: 8 }, how).unwrap();
            assert_eq!(small.pixels, Pixels::U8([1, 2, 3].repeat(32)));
        }
    }

    #[test]
    fn cropping_keeps_the_middle_and_padding_keeps_all() {
        let picture = || grey(4, 2, Pixels::U8(vec![1, 2, 3, 4, 5, 6, 7, 8]));
        assert_eq!(fit(picture(), Size::square(2), Fit::Crop).unwrap().pixels, Pixels::U8(vec![2, 3, 6, 7]));
        let padded = fit(picture(), Size { height: 4, width: 4 }, Fit::Pad).unwrap();
        let bar = [0; 4];
        assert_eq!(padded.pixels, Pixels::U8([&bar, &[1, 2, 3, 4][..], &[5, 6, 7, 8], &bar].concat()));
    }

    #[test]
    fn no_proportions_leave_a_picture_without_pixels() {
        for (width, height) in [(1, 900), (900, 1)] {
            let line = grey(width, height, Pixels::U16(vec![7; 900]));
            for how in [Fit::Stretch, Fit::Crop, Fit::Pad] {
                let small = fit(line.clone(), Size { height: 3, width: 2 }, how).unwrap();
                assert_eq!((small.width, small.height), (2, 3));
            }
        }
    }
}
