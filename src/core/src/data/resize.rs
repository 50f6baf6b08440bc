//! Pillow's bilinear resize, which is what torchvision's `Resize(..., antialias=True)` does to a PIL image: a triangle
//! filter whose support grows with the reduction, in fixed point, the rows first and then the columns.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use super::decode::{DecodeError, Picture, Pixels};

/// `picture` (1 or 3 channels) at `size` x `size`, whatever its proportions were.
pub fn resize(picture: Picture, size: u32) -> Result<Picture, DecodeError> {
    if (picture.width, picture.height) == (size, size) {
        return Ok(picture);
    }
    let channels = picture.channels;
    let (source, kind) = match (&picture.pixels, channels) {
        (Pixels::U8(samples), 1) => (samples.as_slice(), PixelType::U8),
        (Pixels::U8(samples), _) => (samples.as_slice(), PixelType::U8x3),
        (Pixels::U16(samples), 1) => (bytemuck::cast_slice(samples), PixelType::U16),
        (Pixels::U16(samples), _) => (bytemuck::cast_slice(samples), PixelType::U16x3),
    };
    // Two calls fix the order of the passes: the library alone would do the columns first, which rounds differently.
    let source = ImageRef::new(picture.width, picture.height, source, kind).map_err(failed)?;
    let mut rows = Image::new(size, picture.height, kind);
    let mut result = Image::new(size, size, kind);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear)).use_alpha(false);
    let mut resizer = Resizer::new();
    resizer.resize(&source, &mut rows, &options).map_err(failed)?;
    resizer.resize(&rows, &mut result, &options).map_err(failed)?;
    let pixels = match &picture.pixels {
        Pixels::U8(_) => Pixels::U8(result.into_vec()),
        Pixels::U16(_) => Pixels::U16(bytemuck::pod_collect_to_vec(result.buffer())),
    };
    Ok(Picture { width: size, height: size, channels, pixels })
}

fn failed(error: impl std::fmt::Display) -> DecodeError {
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
        let small = resize(grey(4, 1, Pixels::U8(vec![0, 0, 80, 80])), 2).unwrap();
        assert_eq!(small.pixels, Pixels::U8(vec![11, 69, 11, 69]));
    }

    #[test]
    fn a_constant_stays_constant_in_both_depths() {
        let deep = resize(grey(7, 5, Pixels::U16(vec![54321; 35])), 16).unwrap();
        assert_eq!(deep.pixels, Pixels::U16(vec![54321; 256]));
        let colour = Picture { width: 40, height: 30, channels: 3, pixels: Pixels::U8([1, 2, 3].repeat(1200)) };
        assert_eq!(resize(colour, 8).unwrap().pixels, Pixels::U8([1, 2, 3].repeat(64)));
    }
}
