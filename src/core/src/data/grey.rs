//! One channel or three, in Pillow's integer arithmetic.

use super::decode::{Picture, Pixels};

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

fn convert<T: Copy + Default>(samples: &[T], from: usize, to: usize, luma: impl Fn([T; 3]) -> T) -> Vec<T> {
    match (from, to) {
        (1, _) => each(samples, |[level]: [T; 1]| [level; 3]),
        (2, 1) => each(samples, |[level, _]| [level]),
        (2, _) => each(samples, |[level, _]| [level; 3]),
        (3, _) => each(samples, |rgb| [luma(rgb)]),
        (_, 1) => each(samples, |[red, green, blue, _]| [luma([red, green, blue])]),
        _ => each(samples, |[red, green, blue, _]| [red, green, blue]),
    }
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
    fn grey_fills_three_channels() {
        let grey = Picture { width: 2, height: 1, channels: 2, pixels: Pixels::U8(vec![7, 0, 9, 255]) };
        assert_eq!(to_channels(grey, 3).pixels, Pixels::U8(vec![7, 7, 7, 9, 9, 9]));
    }
}
