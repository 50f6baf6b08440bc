//! JPEG by libjpeg, as Pillow reads it: no other decoder rounds the same way, and three levels of difference in the colours show.

use std::any::Any;
use std::panic::{catch_unwind, AssertUnwindSafe};

use mozjpeg::{ColorSpace, Decompress};

use super::{check_size, content, DecodeError, Picture, Pixels};

const END_OF_IMAGE: u8 = 0xD9;

pub(super) fn decode(bytes: &[u8], max_pixels: u64) -> Result<Picture, DecodeError> {
    // The decoder would make up what is missing; a set of slices must not.
    if !is_complete(bytes) {
        return Err(content("the file is truncated"));
    }
    // libjpeg leaves by unwinding when something is wrong.
    catch_unwind(AssertUnwindSafe(|| read(bytes, max_pixels))).unwrap_or_else(|cause| Err(damaged(words(&*cause))))
}

fn read(bytes: &[u8], max_pixels: u64) -> Result<Picture, DecodeError> {
    let file = Decompress::new_mem(bytes).map_err(damaged)?;
    let (width, height) = file.size();
    check_size(width as u64, height as u64, max_pixels)?;
    let to = match file.color_space() {
        ColorSpace::JCS_GRAYSCALE => ColorSpace::JCS_GRAYSCALE,
        ColorSpace::JCS_CMYK | ColorSpace::JCS_YCCK => ColorSpace::JCS_CMYK,
        _ => ColorSpace::JCS_RGB,
    };
    let mut rows = file.to_colorspace(to).map_err(damaged)?;
    let samples: Vec<u8> = rows.read_scanlines().map_err(damaged)?;
    rows.finish().map_err(damaged)?;
    let (channels, samples) = match to {
        ColorSpace::JCS_GRAYSCALE => (1, samples),
        ColorSpace::JCS_CMYK => (3, samples.chunks_exact(4).flat_map(to_rgb).collect()),
        _ => (3, samples),
    };
    Ok(Picture { width: width as u32, height: height as u32, channels, pixels: Pixels::U8(samples) })
}

/// Printing inks to light, with Pillow's rounding of a product of bytes. As Adobe's programs write them and Pillow
/// takes them for granted, the inks are stored inverted: 255 is none.
fn to_rgb(inks: &[u8]) -> [u8; 3] {
    let light = u32::from(inks[3]);
    [0, 1, 2].map(|ink| {
        let product = u32::from(255 - inks[ink]) * light + 128;
        (light - (((product >> 8) + product) >> 8)) as u8
    })
}

/// Walks the markers up to the end of the image.
fn is_complete(bytes: &[u8]) -> bool {
    let mut at = 2;
    while let Some(marker) = next_marker(bytes, &mut at) {
        match marker {
            END_OF_IMAGE => return true,
            // Stuffed zeros, restarts and other markers without a segment.
            0x00 | 0x01 | 0xD0..=0xD8 => {}
            // After the header of a scan come its coded data, in which `next_marker` finds the next real marker.
            _ => match segment_length(bytes, at) {
                Some(length) => at += length,
                None => return false,
            },
        }
    }
    false
}

/// The code after the next 0xFF at or behind `at`, which is left behind it.
fn next_marker(bytes: &[u8], at: &mut usize) -> Option<u8> {
    loop {
        let rest = bytes.get(*at..)?;
        *at += rest.iter().position(|&byte| byte == 0xFF)? + 1;
        let code = *bytes.get(*at)?;
        if code != 0xFF {
            *at += 1;
            return Some(code);
        }
    }
}

fn segment_length(bytes: &[u8], at: usize) -> Option<usize> {
    let pair = bytes.get(at..at.checked_add(2)?)?;
    Some(usize::from(u16::from_be_bytes([pair[0], pair[1]])))
}

fn damaged(error: impl std::fmt::Display) -> DecodeError {
    DecodeError::Content(format!("not a JPEG image that can be read: {error}"))
}

/// What libjpeg said on leaving.
fn words(cause: &(dyn Any + Send)) -> &str {
    let text = cause.downcast_ref::<String>().map(String::as_str).or_else(|| cause.downcast_ref::<&str>().copied());
    text.unwrap_or("the decoder failed")
}
