//! The decoded set in one file, so that the next start reads megabytes instead of decoding gigabytes.
//!
//! Layout, little-endian: magic; length of the key and the key; bytes per value (1 or 2); number of skipped files and for
//! each its index, whether it was missing, and the reason; the values as grey levels; CRC-32 of all that. The key is the package's version,
//! the options and the whole list of files with sizes and times, compared byte for byte: no collision can pass off one set as another.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use super::levels::Value;
use super::picture::Fit;
use super::set::{good, Bad, Cause, ImageSet, LoadOptions, OnBad};
use super::{decode, folder};
use crate::error::{Error, Result};

const MAGIC: &[u8; 16] = b"rust-diffusion 1";

const EXTENSION: &str = "cache";

/// Bytes handled at a time: few calls, little memory.
const BLOCK: usize = 1 << 22;

/// What a cached set depends on: this version of the package, the options, the files as they are now.
pub struct Key {
    bytes: Vec<u8>,
    /// Of the part that stays when a file or the package changes, so that the new set takes the place of the old one.
    name: u64,
}

impl Key {
    pub fn new<T: Value>(files: &[PathBuf], options: &LoadOptions) -> Key {
        let LoadOptions { size, fit, channels, window, max_pixels, .. } = options;
        let mut asked = format!("{} {size} {channels} {window:?} {max_pixels}", T::NAME);
        if *fit != Fit::Stretch {
            asked += &format!(" {fit:?}");
        }
        let mut bytes = format!("{} {} {asked}", env!("CARGO_PKG_VERSION"), decode::VERSION).into_bytes();
        let mut name = fnv1a(FNV_OFFSET, asked.as_bytes());
        for file in files {
            let path = std::path::absolute(file).unwrap_or_else(|_| file.clone());
            name = fnv1a(name, path.as_os_str().as_encoded_bytes());
            bytes.extend(path.as_os_str().as_encoded_bytes());
            bytes.extend(state_of(file).as_bytes());
        }
        Key { bytes, name }
    }

    /// Where the set is kept: `place` itself, or a file in it if it is a folder.
    ///
    /// # Errors
    /// `Value` if `place` is an image or a file of something else: no mistaken argument may overwrite data.
    pub fn file(&self, place: &Path, files: &[PathBuf]) -> Result<PathBuf> {
        if place.is_dir() {
            return Ok(place.join(format!("images-{:016x}.{EXTENSION}", self.name)));
        }
        if folder::has_image_extension(place) || files.iter().any(|file| file == place) {
            return Err(Error::Value(format!(
                "cache: {} is an image, takes a folder or a file of its own",
                place.display()
            )));
        }
        if is_of_something_else(place) {
            return Err(Error::Value(format!(
                "cache: {} holds something else, takes a folder or a file of its own",
                place.display()
            )));
        }
        Ok(place.to_path_buf())
    }
}

/// Whether `place` is a file that was no cache, not even before it was damaged: by its name, or by half of its first bytes.
fn is_of_something_else(place: &Path) -> bool {
    if place.extension().is_some_and(|extension| extension == EXTENSION) {
        return false;
    }
    let mut start = Vec::new();
    match File::open(place).and_then(|file| file.take(MAGIC.len() as u64).read_to_end(&mut start)) {
        Ok(_) => 2 * start.iter().zip(MAGIC).filter(|(byte, expected)| byte == expected).count() < start.len(),
        Err(_) => false,
    }
}

/// Size and time of last change, in a form that no file name continues.
fn state_of(file: &Path) -> String {
    let Ok(about) = fs::metadata(file) else {
        return "\0missing\n".into();
    };
    let changed = about.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    format!("\0{} {}\n", about.len(), changed.map_or(0, |time| time.as_nanos()))
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

fn fnv1a(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The set in `file`, or None if there is none for this key, or it is damaged: then the caller builds it anew.
///
/// # Errors
/// Only what `tick` returns.
pub fn read<T: Value>(
    file: &Path,
    key: &Key,
    files: &[PathBuf],
    options: &LoadOptions,
    tick: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Option<ImageSet<T>>> {
    let Some((mut input, deep, skipped)) = open(file, key, files) else {
        return Ok(None);
    };
    if !skipped.is_empty() && options.on_bad == OnBad::Raise {
        return Ok(None);
    }
    let per_image = options.values_per_image();
    let count = (files.len() - skipped.len()) * per_image;
    let width = if deep { 2 } else { 1 };
    if !input.has_left(count as u64 * width as u64) {
        return Ok(None);
    }
    let levels: Vec<T> = (0..=u8::MAX).map(T::from_u8).collect();
    let mut values: Vec<T> = Vec::with_capacity(count);
    let mut block = vec![0; BLOCK];
    while values.len() < count {
        tick(values.len() / per_image)?;
        let block = &mut block[..BLOCK.min((count - values.len()) * width)];
        if input.fill(block).is_none() {
            return Ok(None);
        }
        if deep {
            values.extend(block.chunks_exact(2).map(|pair| T::from_u16(u16::from_le_bytes([pair[0], pair[1]]))));
        } else {
            values.extend(block.iter().map(|&level| levels[usize::from(level)]));
        }
    }
    if !input.ends_well() {
        return Ok(None);
    }
    let kept: Vec<PathBuf> = good(files, &skipped).map(|(_, file)| file.clone()).collect();
    if kept.len() * per_image != count {
        return Ok(None);
    }
    Ok(Some(ImageSet { values, files: kept, skipped, deep, from_cache: true, cache_trouble: None }))
}

fn open(file: &Path, key: &Key, files: &[PathBuf]) -> Option<(Checked, bool, Vec<Bad>)> {
    let mut input = Checked::open(file)?;
    let same = input.bytes(MAGIC.len())? == MAGIC && input.number()? == key.bytes.len() as u64;
    if !same || input.bytes(key.bytes.len())? != key.bytes {
        return None;
    }
    let deep = match input.number()? {
        1 => false,
        2 => true,
        _ => return None,
    };
    let mut skipped = Vec::new();
    for _ in 0..input.number()? {
        let index = usize::try_from(input.number()?).ok()?;
        let cause = if input.number()? == 1 { Cause::Missing } else { Cause::Damaged };
        let length = usize::try_from(input.number()?).ok()?;
        let reason = String::from_utf8(input.bytes(length)?).ok()?;
        skipped.push(Bad { index, file: files.get(index)?.clone(), cause, reason });
    }
    (skipped.len() <= files.len()).then_some((input, deep, skipped))
}

/// A reader that keeps the checksum of what went through it. None stands for an end that came too soon.
struct Checked {
    input: BufReader<File>,
    left: u64,
    sum: crc32fast::Hasher,
}

impl Checked {
    fn open(file: &Path) -> Option<Checked> {
        let input = File::open(file).ok()?;
        let left = input.metadata().ok()?.len();
        Some(Checked { input: BufReader::new(input), left, sum: crc32fast::Hasher::new() })
    }

    fn has_left(&self, values: u64) -> bool {
        self.left == values + 4
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Option<()> {
        self.left = self.left.checked_sub(buffer.len() as u64)?;
        self.input.read_exact(buffer).ok()?;
        self.sum.update(buffer);
        Some(())
    }

    fn bytes(&mut self, length: usize) -> Option<Vec<u8>> {
        // Before memory is set aside: a damaged length may ask for anything.
        if length as u64 > self.left {
            return None;
        }
        let mut buffer = vec![0; length];
        self.fill(&mut buffer)?;
        Some(buffer)
    }

    fn number(&mut self) -> Option<u64> {
        let mut buffer = [0; 8];
        self.fill(&mut buffer)?;
        Some(u64::from_le_bytes(buffer))
    }

    fn ends_well(mut self) -> bool {
        let sum = self.sum.clone().finalize();
        let mut stored = [0; 4];
        self.input.read_exact(&mut stored).is_ok() && u32::from_le_bytes(stored) == sum
    }
}

/// Writes `set` beside `file` and renames it into place: readers see the old file or the new one, and of
/// two processes that write at once the last one wins.
pub fn write<T: Value>(file: &Path, key: &Key, set: &ImageSet<T>) -> io::Result<()> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let unique = format!(".{}-{}.tmp", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
    let mut beside = file.as_os_str().to_owned();
    beside.push(unique);
    let written = write_whole(Path::new(&beside), key, set).and_then(|()| fs::rename(&beside, file));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written?;
    // The new name is on disk only when the folder is. Where folders cannot be opened, the system sees to it.
    File::open(folder).and_then(|folder| folder.sync_all()).or(Ok(()))
}

fn write_whole<T: Value>(path: &Path, key: &Key, set: &ImageSet<T>) -> io::Result<()> {
    let mut output = BufWriter::new(File::create(path)?);
    let mut sum = crc32fast::Hasher::new();
    let mut put = |bytes: &[u8]| {
        sum.update(bytes);
        output.write_all(bytes)
    };
    let number = |number: usize| (number as u64).to_le_bytes();

    put(MAGIC)?;
    put(&number(key.bytes.len()))?;
    put(&key.bytes)?;
    put(&number(if set.deep { 2 } else { 1 }))?;
    put(&number(set.skipped.len()))?;
    for bad in &set.skipped {
        put(&number(bad.index))?;
        put(&number(usize::from(bad.cause == Cause::Missing)))?;
        put(&number(bad.reason.len()))?;
        put(bad.reason.as_bytes())?;
    }
    for values in set.values.chunks(BLOCK / 2) {
        let block: Vec<u8> = match set.deep {
            true => values.iter().flat_map(|value| value.to_u16().to_le_bytes()).collect(),
            false => values.iter().map(|value| value.to_u8()).collect(),
        };
        put(&block)?;
    }
    let sum = sum.finalize();
    output.write_all(&sum.to_le_bytes())?;
    output.into_inner()?.sync_all()
}
