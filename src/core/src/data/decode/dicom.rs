//! CT slices from DICOM files, shown through a window on the Hounsfield scale.

use std::io::Cursor;

use dicom_encoding::TransferSyntaxIndex;
use dicom_object::{FileDicomObject, FileMetaTable, InMemDicomObject, OpenFileOptions, Tag};
use dicom_parser::dataset::lazy_read::LazyDataSetReader;
use dicom_parser::dataset::LazyDataToken;
use dicom_parser::StatefulDecode;
use dicom_pixeldata::{ConvertOptions, PhotometricInterpretation, PixelDecoder, VoiLutOption};
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;

use super::{check_size, content, DecodeError, Picture, Pixels, Window};

/// Where the first element stands, and before it the letters DICM.
const PREAMBLE_SIZE: usize = 128;

const ROWS: Tag = Tag(0x0028, 0x0010);
const COLUMNS: Tag = Tag(0x0028, 0x0011);

/// One grey slice as 16-bit levels over `window`; MONOCHROME1 is turned to white on black.
pub(super) fn decode(bytes: &[u8], window: Option<Window>, max_pixels: u64) -> Result<Picture, DecodeError> {
    let Some(window) = window else {
        return Err(content(
            "a DICOM file needs window=(level, width) in Hounsfield units, such as (-600, 1500) for lungs",
        ));
    };
    check_lengths(bytes)?;
    let object = OpenFileOptions::new().from_reader(Cursor::new(bytes)).map_err(damaged)?;
    let (height, width) = (side(&object, ROWS)?, side(&object, COLUMNS)?);
    check_size(width.into(), height.into(), max_pixels)?;

    let data = object.decode_pixel_data().map_err(damaged)?;
    if data.number_of_frames() != 1 || data.samples_per_pixel() != 1 {
        return Err(content("only DICOM files with one grey frame are supported"));
    }
    // Stored values to Hounsfield units (slope and intercept), but not through the file's own window.
    let options = ConvertOptions::new().with_voi_lut(VoiLutOption::Identity);
    let units: Vec<f32> = data.to_vec_with_options(&options).map_err(damaged)?;
    if units.len() as u64 != u64::from(width) * u64::from(height) {
        return Err(content("the file is truncated"));
    }
    let inverted = *data.photometric_interpretation() == PhotometricInterpretation::Monochrome1;
    let levels =
        units.into_iter().map(|unit| window.shade(unit)).map(|shade| if inverted { u16::MAX - shade } else { shade });
    Ok(Picture { width, height, channels: 1, pixels: Pixels::U16(levels.collect()) })
}

/// Refuses an element that claims more bytes than the file has left: the parser sets the memory aside before it looks.
fn check_lengths(bytes: &[u8]) -> Result<(), DecodeError> {
    let bytes = &bytes[PREAMBLE_SIZE..];
    let mut input = Cursor::new(bytes);
    let meta = FileMetaTable::from_reader(&mut input).map_err(damaged)?;
    let Some(syntax) = TransferSyntaxRegistry.get(meta.transfer_syntax()) else {
        return Err(content("its transfer syntax is not supported"));
    };
    let mut elements = LazyDataSetReader::new_with_ts(input, syntax).map_err(damaged)?;
    while let Some(token) = elements.advance() {
        let token = token.map_err(damaged)?;
        let (start, claimed) = match &token {
            LazyDataToken::LazyValue { header, decoder } => (decoder.position(), header.len.0),
            LazyDataToken::LazyItemValue { len, decoder } => (decoder.position(), *len),
            _ => continue,
        };
        if start.saturating_add(claimed.into()) > bytes.len() as u64 {
            return Err(content("the file is truncated"));
        }
        token.skip().map_err(damaged)?;
    }
    Ok(())
}

fn side(object: &FileDicomObject<InMemDicomObject>, tag: Tag) -> Result<u32, DecodeError> {
    object.element(tag).map_err(damaged)?.to_int().map_err(damaged)
}

fn damaged(error: impl std::fmt::Display) -> DecodeError {
    DecodeError::Content(format!("not a DICOM image that can be read: {error}"))
}
