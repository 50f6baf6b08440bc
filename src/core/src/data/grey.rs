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

fn convert<T: Copy + Into<u32>>(samples: &[T], from: usize, to: usize, luma: impl Fn([T; 3]) -> T) -> Vec<T> {
    let pixels = samples.chunks_exact(from);
    match (from, to) {
        (1 | 2, 1) => pixels.map(|p| p[0]).collect(),
        (1 | 2, _) => pixels.flat_map(|p| [p[0]; 3]).collect(),
        (_, 1) => pixels.map(|p| luma([p[0], p[1], p[2]])).collect(),
        _ => pixels.flat_map(|p| [p[0], p[1], p[2]]).collect(),
    }
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
