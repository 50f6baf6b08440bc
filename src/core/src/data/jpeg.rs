//! JPEG. Of the decoders in Rust this one follows libjpeg's upsampling of the colours, and so Pillow's grey levels.

use jpeg_decoder::{Decoder, PixelFormat};

use super::decode::{check_size, DecodeError, Picture, Pixels};

const END_OF_IMAGE: u8 = 0xD9;

pub(super) fn decode(bytes: &[u8], max_pixels: u64) -> Result<Picture, DecodeError> {
    // The decoder would make up what is missing; a set of slices must not.
    if !is_complete(bytes) {
        return Err(DecodeError::Content("the file is truncated".into()));
    }
    let mut decoder = Decoder::new(bytes);
    decoder.read_info().map_err(damaged)?;
    let info = decoder.info().ok_or_else(|| damaged("no image in it"))?;
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    check_size(width.into(), height.into(), max_pixels)?;
    let samples = decoder.decode().map_err(damaged)?;
    let (channels, pixels) = match info.pixel_format {
        PixelFormat::L8 => (1, Pixels::U8(samples)),
        PixelFormat::L16 => (1, Pixels::U16(bytemuck::pod_collect_to_vec(&samples))),
        PixelFormat::RGB24 => (3, Pixels::U8(samples)),
        PixelFormat::CMYK32 => (3, Pixels::U8(samples.chunks_exact(4).flat_map(to_rgb).collect())),
    };
    Ok(Picture { width, height, channels, pixels })
}

/// Printing inks to light, with Pillow's rounding of a product of bytes.
fn to_rgb(inks: &[u8]) -> [u8; 3] {
    let light = 255 - u32::from(inks[3]);
    [0, 1, 2].map(|ink| {
        let product = u32::from(inks[ink]) * light + 128;
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
