//! One channel or three, in Pillow's integer arithmetic.

use std::ops::{BitOr, BitXor};

use super::{Picture, Pixels};

/// Grey and alpha, RGB, RGBA to what was asked for: 1 is Pillow's `convert("L")`, 3 its `convert("RGB")`. Alpha is
/// dropped, not blended, as Pillow drops it.
pub fn to_channels(picture: Picture, channels: usize) -> Picture {
    if picture.channels == channels {
        return picture;
    }
    let from = picture.channels;
    let pixels = match &picture.pixels {
        Pixels::U8(samples) => Pixels::U8(convert(samples, from, channels, |p| luma(p) as u8)),
        Pixels::U16(samples) => Pixels::U16(convert(samples, from, channels, |p| luma(p) as u16)),
    };
    Picture { channels, pixels, ..picture }
}

fn convert<T: Copy + Default + BitXor<Output = T> + BitOr<Output = T> + PartialEq>(
    samples: &[T],
    from: usize,
    to: usize,
    luma: impl Fn([T; 3]) -> T,
) -> Vec<T> {
    match (from, to) {
        (1, _) => each(samples, |[level]: [T; 1]| [level; 3]),
        (2, 1) => each(samples, |[level, _]| [level]),
        (2, _) => each(samples, |[level, _]| [level; 3]),
        (3, _) => grey(samples, |rgb| rgb, luma),
        (_, 1) => grey(samples, |[red, green, blue, _]| [red, green, blue], luma),
        _ => each(samples, |[red, green, blue, _]| [red, green, blue]),
    }
}

/// Pixels that are looked at together.
const RUN: usize = 1024;

/// The luma of each pixel. Slices are mostly grey pictures stored in colour, and the luma of three equal levels is
/// that level: a run of such pixels is only copied.
fn grey<T: Copy + Default + BitXor<Output = T> + BitOr<Output = T> + PartialEq, const FROM: usize>(
    samples: &[T],
    rgb: impl Fn([T; FROM]) -> [T; 3],
    luma: impl Fn([T; 3]) -> T,
) -> Vec<T> {
    let (pixels, _) = samples.as_chunks::<FROM>();
    let mut result = vec![T::default(); pixels.len()];
    for (places, pixels) in result.chunks_mut(RUN).zip(pixels.chunks(RUN)) {
        let mut coloured = T::default();
        for (place, &pixel) in places.iter_mut().zip(pixels) {
            let [red, green, blue] = rgb(pixel);
            coloured = coloured | (red ^ green) | (red ^ blue);
            *place = red;
        }
        if coloured != T::default() {
            for (place, &pixel) in places.iter_mut().zip(pixels) {
                *place = luma(rgb(pixel));
            }
        }
    }
    result
}

/// The numbers of channels are part of the type, so that the compiler can take several pixels at a time.
fn each<T: Copy + Default, const FROM: usize, const TO: usize>(
    samples: &[T],
    pixel: impl Fn([T; FROM]) -> [T; TO],
) -> Vec<T> {
    let mut result = vec![T::default(); samples.len() / FROM * TO];
    let (sources, _) = samples.as_chunks::<FROM>();
    let (places, _) = result.as_chunks_mut::<TO>();
    for (place, source) in places.iter_mut().zip(sources) {
        *place = pixel(*source);
    }
    result
}

/// ITU-R 601-2 luma, 0.299 R + 0.587 G + 0.114 B, in 16-bit fixed point with rounding.
fn luma<T: Into<u32>>([red, green, blue]: [T; 3]) -> u32 {
    (red.into() * 19595 + green.into() * 38470 + blue.into() * 7471 + 0x8000) >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rgb(pixels: Vec<u8>) -> Picture {
        Picture { width: (pixels.len() / 3) as u32, height: 1, channels: 3, pixels: Pixels::U8(pixels) }
    }

    #[test]
    fn luma_of_the_primaries_is_pillows() {
        let grey = to_channels(rgb(vec![255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 255]), 1);
        assert_eq!(grey.pixels, Pixels::U8(vec![76, 150, 29, 255]));
    }

    #[test]
    fn alpha_is_dropped_and_white_stays_white_in_16_bits() {
        let rgba = Picture { width: 1, height: 1, channels: 4, pixels: Pixels::U16(vec![65535, 65535, 65535, 0]) };
        assert_eq!(to_channels(rgba, 1).pixels, Pixels::U16(vec![65535]));
    }

    #[test]
    fn equal_levels_are_their_own_luma() {
        for level in 0..=u16::MAX {
            assert_eq!(luma([level; 3]), u32::from(level));
        }
    }

    #[test]
    fn one_coloured_pixel_among_grey_ones_is_not_missed() {
        let mut pixels = vec![9; 3 * (RUN + 7)];
        pixels[3 * (RUN + 3)..][..3].copy_from_slice(&[255, 0, 0]);
        let Pixels::U8(levels) = to_channels(rgb(pixels), 1).pixels else { panic!("8 bits") };
        assert_eq!((levels[RUN + 2], levels[RUN + 3]), (9, 76));
    }

    #[test]
    fn grey_fills_three_channels() {
        let grey = Picture { width: 2, height: 1, channels: 2, pixels: Pixels::U8(vec![7, 0, 9, 255]) };
        assert_eq!(to_channels(grey, 3).pixels, Pixels::U8(vec![7, 7, 7, 9, 9, 9]));
    }
}
