//! From a file to samples in memory: PNG, JPEG, TIFF and DICOM, told apart by their content.

#[cfg(feature = "dicom")]
mod dicom;
mod jpeg;
mod png;
mod tiff;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, Limits};

use super::picture::{Picture, Pixels, Window};

/// What the pixels of a decoded set depend on beside its files: to be raised with every change of them, in the decoders, in
/// `picture` or in the libraries below, so that no cache serves old ones. A test compares known pixels.
pub const VERSION: u32 = 2;

/// Pixels that a file may declare before it is refused as a decompression bomb: 8192 x 8192.
pub const MAX_PIXELS: u64 = 1 << 26;

/// Bytes that a file may have. Larger than any image within [`MAX_PIXELS`] needs.
const MAX_FILE_BYTES: u64 = 1 << 30;

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
/// DICOM files have no grey levels of their own and need a `window`; of others, those of 16 bits are shown through it.
pub fn decode_file(path: &Path, window: Option<Window>, max_pixels: u64) -> Result<Picture, DecodeError> {
    decode_bytes(&read(path)?, window, max_pixels)
}

/// Like [`decode_file`], for a file that is already in memory.
pub fn decode_bytes(bytes: &[u8], window: Option<Window>, max_pixels: u64) -> Result<Picture, DecodeError> {
    if bytes.is_empty() {
        return Err(content("the file is empty"));
    }
    if is_dicom(bytes) {
        return decode_dicom(bytes, window, max_pixels);
    }
    let picture = match image::guess_format(bytes) {
        Ok(ImageFormat::Png) => png::decode(bytes, max_pixels),
        Ok(ImageFormat::Jpeg) => jpeg::decode(bytes, max_pixels),
        Ok(ImageFormat::Tiff) => tiff::decode(bytes, max_pixels),
        _ => Err(content("not a PNG, JPEG, TIFF or DICOM image")),
    }?;
    Ok(match window {
        Some(window) => window.show(picture),
        None => picture,
    })
}

/// The picture that a decoder of the `image` crate gives.
fn finish<D: ImageDecoder>(mut decoder: D, max_pixels: u64) -> Result<Picture, DecodeError> {
    let (width, height) = decoder.dimensions();
    check_size(width.into(), height.into(), max_pixels)?;
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(max_pixels.saturating_mul(16));
    decoder.set_limits(limits)?;
    let (channels, pixels) = match DynamicImage::from_decoder(decoder)? {
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
fn check_size(width: u64, height: u64, max_pixels: u64) -> Result<(), DecodeError> {
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
    dicom::decode(bytes, window, max_pixels)
}

#[cfg(not(feature = "dicom"))]
fn decode_dicom(_: &[u8], _: Option<Window>, _: u64) -> Result<Picture, DecodeError> {
    Err(content("this build reads no DICOM"))
}

fn content(text: &str) -> DecodeError {
    DecodeError::Content(text.into())
}

/// Our words for what the `image` crate found: what its decoders say is written for those who write decoders.
impl From<ImageError> for DecodeError {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::IoError(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => {
                content("the file is truncated")
            }
            ImageError::Unsupported(what) => DecodeError::Content(what.to_string()),
            ImageError::Limits(_) => content("decoding it would take more memory than its pixels need"),
            _ => content("the file is damaged"),
        }
    }
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => error.to_string(),
    }
}
