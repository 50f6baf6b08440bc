//! TIFF, by the `image` crate.

use std::io::Cursor;

use image::codecs::tiff::TiffDecoder;

use super::{finish, DecodeError, Picture};

pub(super) fn decode(bytes: &[u8], max_pixels: u64) -> Result<Picture, DecodeError> {
    finish(TiffDecoder::new(Cursor::new(bytes))?, max_pixels)
}
