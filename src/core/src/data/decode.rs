//! From a file to samples in memory: PNG, JPEG, TIFF and DICOM, told apart by their content.

use std::fs::{self, File};
use std::io::{self, Cursor, Read};
use std::path::Path;

use image::codecs::tiff::TiffDecoder;
use image::{DynamicImage, ImageDecoder, ImageFormat, Limits};

use super::{jpeg, png};

/// Pixels that a file may declare before it is refused as a decompression bomb: 8192 x 8192.
pub const MAX_PIXELS: u64 = 1 << 26;

/// Bytes that a file may have. Larger than any image within [`MAX_PIXELS`] needs.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// Samples of one image, row by row, the channels of a pixel together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pixels {
    U8(Vec<u8>),
    U16(Vec<u16>),
}

/// One decoded image. `channels` is 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA); palettes are already looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    pub width: u32,
    pub height: u32,
    pub channels: usize,
    pub pixels: Pixels,
}

/// The part of the Hounsfield scale that is shown: `level - width / 2` becomes black, `level + width / 2` white.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    pub level: f32,
    pub width: f32,
}

/// Why a file gave no image.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("{}", reason(.0))]
    Io(#[from] io::Error),
    #[error("{0}")]
    Content(String),
}

/// Reads one file. A damaged one is an error, never half an image.
///
/// `window` is for DICOM, which has no grey levels of its own; other formats take no notice of it.
pub fn decode_file(path: &Path, window: Option<Window>, max_pixels: u64) -> Result<Picture, DecodeError> {
    decode_bytes(&read(path)?, window, max_pixels)
}

/// Like [`decode_file`], for a file that is already in memory.
pub fn decode_bytes(bytes: &[u8], window: Option<Window>, max_pixels: u64) -> Result<Picture, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Content("the file is empty".into()));
    }
    if is_dicom(bytes) {
        return decode_dicom(bytes, window, max_pixels);
    }
    match image::guess_format(bytes) {
        Ok(ImageFormat::Png) => png::decode(bytes, max_pixels),
        Ok(ImageFormat::Jpeg) => jpeg::decode(bytes, max_pixels),
        Ok(ImageFormat::Tiff) => finish(TiffDecoder::new(Cursor::new(bytes)).map_err(image_error)?, max_pixels),
        _ => Err(DecodeError::Content("not a PNG, JPEG, TIFF or DICOM image".into())),
    }
}

/// The picture that a decoder of the `image` crate gives.
pub(super) fn finish<D: ImageDecoder>(mut decoder: D, max_pixels: u64) -> Result<Picture, DecodeError> {
    let (width, height) = decoder.dimensions();
    check_size(width.into(), height.into(), max_pixels)?;
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(max_pixels.saturating_mul(16));
    decoder.set_limits(limits).map_err(image_error)?;
    let (channels, pixels) = match DynamicImage::from_decoder(decoder).map_err(image_error)? {
        DynamicImage::ImageLuma8(image) => (1, Pixels::U8(image.into_raw())),
        DynamicImage::ImageLumaA8(image) => (2, Pixels::U8(image.into_raw())),
        DynamicImage::ImageRgb8(image) => (3, Pixels::U8(image.into_raw())),
        DynamicImage::ImageRgba8(image) => (4, Pixels::U8(image.into_raw())),
        DynamicImage::ImageLuma16(image) => (1, Pixels::U16(image.into_raw())),
        DynamicImage::ImageLumaA16(image) => (2, Pixels::U16(image.into_raw())),
        DynamicImage::ImageRgb16(image) => (3, Pixels::U16(image.into_raw())),
        DynamicImage::ImageRgba16(image) => (4, Pixels::U16(image.into_raw())),
        other => return Err(DecodeError::Content(format!("samples of type {:?} are not supported", other.color()))),
    };
    Ok(Picture { width, height, channels, pixels })
}

/// Refuses images without pixels and decompression bombs.
pub(super) fn check_size(width: u64, height: u64, max_pixels: u64) -> Result<(), DecodeError> {
    if width == 0 || height == 0 {
        return Err(DecodeError::Content(format!("the image has no pixels ({width} x {height})")));
    }
    if width.saturating_mul(height) > max_pixels {
        return Err(DecodeError::Content(format!(
            "{width} x {height} pixels are more than the limit of {max_pixels} (a decompression bomb?)"
        )));
    }
    Ok(())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let about = fs::metadata(path)?;
    // Opening a pipe would wait for a writer that may never come.
    if !about.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if about.len() > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("{} bytes are more than the limit of {MAX_FILE_BYTES}", about.len())));
    }
    let mut bytes = Vec::with_capacity(about.len() as usize);
    File::open(path)?.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn is_dicom(bytes: &[u8]) -> bool {
    bytes.get(128..132) == Some(b"DICM".as_slice())
}

#[cfg(feature = "dicom")]
fn decode_dicom(bytes: &[u8], window: Option<Window>, max_pixels: u64) -> Result<Picture, DecodeError> {
    super::dicom::decode(bytes, window, max_pixels)
}

#[cfg(not(feature = "dicom"))]
fn decode_dicom(_: &[u8], _: Option<Window>, _: u64) -> Result<Picture, DecodeError> {
    Err(DecodeError::Content("this build reads no DICOM".into()))
}

pub(super) fn image_error(error: image::ImageError) -> DecodeError {
    let text = match &error {
        image::ImageError::IoError(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => {
            "the file is truncated".into()
        }
        _ => error.to_string(),
    };
    DecodeError::Content(text)
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => error.to_string(),
    }
}
