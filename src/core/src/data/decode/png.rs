//! PNG. The `image` crate decodes it. Two thirds of that time would go into inflating; libdeflate does that beforehand
//! in less than half of it, and hands over the same file with its pixels stored instead of compressed.

use std::io::Cursor;

use image::codecs::png::PngDecoder;
use libdeflater::Decompressor;

use super::{content, finish, DecodeError, Picture};

const SIGNATURE_SIZE: usize = 8;

/// Pixel data up to which a second copy in memory is worth its time; larger files are decoded as they are.
const MAX_INFLATED: usize = 1 << 24;

/// What a stored block of a deflate stream holds at most.
const BLOCK: usize = u16::MAX as usize;

pub(super) fn decode(bytes: &[u8], max_pixels: u64) -> Result<Picture, DecodeError> {
    let stored = stored(bytes);
    let reader = Cursor::new(stored.as_deref().unwrap_or(bytes));
    let picture = PngDecoder::new(reader).map_err(DecodeError::from).and_then(|decoder| finish(decoder, max_pixels));
    picture.map_err(|error| damage(bytes).unwrap_or(error))
}

/// What is wrong with a file that cannot be decoded, if its chunks tell.
fn damage(bytes: &[u8]) -> Option<DecodeError> {
    let mut start = SIGNATURE_SIZE;
    loop {
        let Some(chunk) = Chunk::at(bytes, start) else {
            return Some(content("the file is truncated"));
        };
        // The decoder takes no notice of damage in the chunks that a small letter marks as dispensable.
        if chunk.kind.first().is_some_and(u8::is_ascii_uppercase) && !chunk.is_intact() {
            let kind = String::from_utf8_lossy(chunk.kind);
            return Some(DecodeError::Content(format!(
                "the file is damaged (the checksum of its {kind} chunk is wrong)"
            )));
        }
        if chunk.kind == b"IEND" {
            return None;
        }
        start = chunk.end;
    }
}

/// The file with its pixels stored, or None if it is large, interlaced or damaged: then it is decoded as it is.
fn stored(bytes: &[u8]) -> Option<Vec<u8>> {
    let header = Chunk::at(bytes, SIGNATURE_SIZE)?;
    let mut inflated = vec![0; size_of_pixels(&header)?];
    let (mut start, mut next) = (header.end, Chunk::at(bytes, header.end)?);
    while next.kind != b"IDAT" {
        (start, next) = (next.end, Chunk::at(bytes, next.end)?);
    }
    let (mut end, mut deflated) = (start, Vec::with_capacity(bytes.len() - start));
    while let Some(chunk) = Chunk::at(bytes, end).filter(|chunk| chunk.kind == b"IDAT") {
        if !chunk.is_intact() {
            return None;
        }
        deflated.extend_from_slice(chunk.data);
        end = chunk.end;
    }
    let written = Decompressor::new().zlib_decompress(&deflated, &mut inflated).ok()?;
    if written != inflated.len() {
        return None;
    }
    let mut file = Vec::with_capacity(bytes.len() - (end - start) + inflated.len() + inflated.len() / BLOCK * 5 + 32);
    file.extend_from_slice(&bytes[..start]);
    put_stored(&mut file, &inflated);
    file.extend_from_slice(&bytes[end..]);
    Some(file)
}

struct Chunk<'a> {
    kind: &'a [u8],
    data: &'a [u8],
    sum: u32,
    end: usize,
}

impl<'a> Chunk<'a> {
    fn at(bytes: &'a [u8], start: usize) -> Option<Chunk<'a>> {
        let rest = bytes.get(start..)?;
        let data_end = number(rest, 0)? + 8;
        let sum = number(rest, data_end)? as u32;
        Some(Chunk { kind: &rest[4..8], data: &rest[8..data_end], sum, end: start + data_end + 4 })
    }

    fn is_intact(&self) -> bool {
        let mut sum = crc32fast::Hasher::new();
        sum.update(self.kind);
        sum.update(self.data);
        sum.finalize() == self.sum
    }
}

/// The big-endian number of four bytes at `place`.
fn number(bytes: &[u8], place: usize) -> Option<usize> {
    let bytes = bytes.get(place..place.checked_add(4)?)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?) as usize)
}

/// Bytes of all rows, each behind the number of its filter.
fn size_of_pixels(header: &Chunk) -> Option<usize> {
    let (width, height) = (number(header.data, 0)?, number(header.data, 4)?);
    let &[depth, colour, _, _, interlaced] = header.data.get(8..)? else {
        return None;
    };
    let samples = match colour {
        0 | 3 => 1,
        2 => 3,
        4 => 2,
        6 => 4,
        _ => return None,
    };
    let row = width.checked_mul(samples * usize::from(depth))?.div_ceil(8) + 1;
    let size = row.checked_mul(height)?;
    (interlaced == 0 && size <= MAX_INFLATED).then_some(size)
}

/// Appends one chunk of `pixels` in stored blocks.
fn put_stored(file: &mut Vec<u8>, pixels: &[u8]) {
    let blocks = pixels.chunks(BLOCK);
    let size = 2 + pixels.len() + 5 * blocks.len() + 4;
    file.extend((size as u32).to_be_bytes());
    let start = file.len();
    file.extend(b"IDAT\x78\x01");
    let last = blocks.len().saturating_sub(1);
    for (i, block) in blocks.enumerate() {
        let size = block.len() as u16;
        file.push(u8::from(i == last));
        file.extend(size.to_le_bytes());
        file.extend((!size).to_le_bytes());
        file.extend_from_slice(block);
    }
    // In the place of Adler's checksum, which libdeflate has compared and the decoder does not look at.
    file.extend([0; 4]);
    let sum = crc32fast::hash(&file[start..]);
    file.extend(sum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(picture: &image::DynamicImage) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    fn gradient(width: u32, height: u32) -> image::DynamicImage {
        image::RgbaImage::from_fn(width, height, |x, y| image::Rgba([x as u8, y as u8, (x * y) as u8, 255])).into()
    }

    #[test]
    fn the_stored_file_holds_the_same_picture() {
        // The larger one takes several blocks.
        for picture in [gradient(7, 5), gradient(300, 200), gradient(40, 30).to_luma16().into()] {
            let bytes = encoded(&picture);
            let stored = stored(&bytes).expect("a plain file");
            assert_eq!(image::load_from_memory(&stored).unwrap(), picture);
        }
    }

    fn refusal(bytes: &[u8]) -> String {
        assert_eq!(stored(bytes), None);
        decode(bytes, 1 << 20).expect_err("a damaged file").to_string()
    }

    #[test]
    fn damage_is_refused_in_words_of_our_own() {
        let bytes = encoded(&gradient(30, 20));
        for place in [44, 60, bytes.len() - 20] {
            let mut bytes = bytes.clone();
            bytes[place] ^= 1;
            assert_eq!(
                refusal(&bytes),
                "the file is damaged (the checksum of its IDAT chunk is wrong)",
                "byte {place}"
            );
        }
        assert_eq!(refusal(&bytes[..bytes.len() / 2]), "the file is truncated");
        assert_eq!(refusal(&bytes[..SIGNATURE_SIZE]), "the file is truncated");
    }

    #[test]
    fn compressed_pixels_that_do_not_unpack_are_damage() {
        let bytes = encoded(&gradient(30, 20));
        let idat = bytes.windows(4).position(|kind| kind == b"IDAT").expect("pixels");
        let end = Chunk::at(&bytes, idat - 4).expect("a chunk").end;
        for place in idat + 4..end - 4 {
            let mut bytes = bytes.clone();
            bytes[place] = !bytes[place];
            let sum = crc32fast::hash(&bytes[idat..end - 4]);
            bytes[end - 4..end].copy_from_slice(&sum.to_be_bytes());
            // Whether every change is noticed is the format's affair; what is said of it is ours.
            if let Err(error) = decode(&bytes, 1 << 20) {
                assert!(
                    ["the file is damaged", "the file is truncated"].contains(&error.to_string().as_str()),
                    "{error}"
                );
            }
        }
    }
}
