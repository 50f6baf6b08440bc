//! Many files to one block of memory, in parallel.

use std::collections::HashSet;
use std::fmt::Write;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use super::cache;
use super::decode::{decode_file, DecodeError, Pixels, Window, MAX_PIXELS};
use super::grey::to_channels;
use super::parallel::for_each_image;
use super::resize::resize;
use super::sample::Sample;
use crate::error::{Error, Result};

/// Bad files that a message names before it only counts.
const NAMED_IN_MESSAGES: usize = 10;

/// What to do about a file that is missing, damaged or no image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnBad {
    Raise,
    Skip,
}

#[derive(Debug, Clone)]
pub struct Options {
    /// Side of the square images, in pixels.
    pub size: u32,
    /// 1 (grey) or 3 (RGB).
    pub channels: usize,
    /// Needed for DICOM files.
    pub window: Option<Window>,
    /// Pixels above which a file is refused.
    pub max_pixels: u64,
    /// Threads that decode; 0 for one per core.
    pub threads: usize,
    pub on_bad: OnBad,
}

impl Default for Options {
    fn default() -> Self {
        Options { size: 64, channels: 1, window: None, max_pixels: MAX_PIXELS, threads: 0, on_bad: OnBad::Raise }
    }
}

impl Options {
    pub(super) fn values_per_image(&self) -> usize {
        self.channels * self.size as usize * self.size as usize
    }

    fn check(&self) -> Result<()> {
        if !(1..=16384).contains(&self.size) {
            return Err(Error::Value(format!("size: got {}, takes 1 to 16384", self.size)));
        }
        if ![1, 3].contains(&self.channels) {
            return Err(Error::Value(format!("channels: got {}, takes 1 (grey) or 3 (RGB)", self.channels)));
        }
        match self.window {
            Some(Window { level, width }) if !(level.is_finite() && width.is_finite() && width > 0.0) => {
                Err(Error::Value(format!(
                    "window: got ({level}, {width}), takes a finite level and a width above 0 in Hounsfield units"
                )))
            }
            _ => Ok(()),
        }
    }
}

/// A file that gave no image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bad {
    /// Its place in the list of files asked for.
    pub index: usize,
    pub file: PathBuf,
    pub cause: Cause,
    pub reason: String,
}

/// What is the matter with a bad file: it does not exist, the system does not give it out, or its content is no image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Missing,
    Unreadable,
    Damaged,
}

impl Cause {
    fn of(error: &DecodeError) -> Cause {
        match error {
            DecodeError::Io(cause) if cause.kind() == std::io::ErrorKind::NotFound => Cause::Missing,
            DecodeError::Io(_) => Cause::Unreadable,
            DecodeError::Content(_) => Cause::Damaged,
        }
    }
}

/// The decoded set: `values` holds the images of `files` one after the other, each (channels, size, size).
#[derive(Debug)]
pub struct ImageSet<T> {
    pub values: Vec<T>,
    pub files: Vec<PathBuf>,
    pub skipped: Vec<Bad>,
    /// Some source had 16 bits a sample.
    pub deep: bool,
    pub from_cache: bool,
    /// Why the cache could not be written, if it could not: the images are good all the same.
    pub cache_trouble: Option<String>,
}

/// Decodes `files` in their order, or takes them from `cache` (a file, or a folder to keep the file in) if nothing has
/// changed since. `tick` is called on this thread with the number of images done; its error ends the run.
///
/// # Errors
/// `Value` for bad options and for files that cannot be decoded, `NotFound` if the only trouble is files that do not
/// exist, and whatever `tick` returns.
pub fn load<T: Sample>(
    files: Vec<PathBuf>,
    options: &Options,
    cache: Option<&Path>,
    tick: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<ImageSet<T>> {
    options.check()?;
    if files.is_empty() {
        return Err(Error::Value("path: got no files".into()));
    }
    let Some(cache) = cache else {
        return decode_set(files, options, tick);
    };
    let key = cache::Key::new::<T>(&files, options);
    let file = key.file(cache, &files)?;
    if let Some(set) = cache::read(&file, &key, &files, options, tick)? {
        return Ok(set);
    }
    let mut set = decode_set(files.clone(), options, tick)?;
    // A file that the system withheld may be given out next time, and nothing in the key would tell.
    if set.skipped.iter().any(|bad| bad.cause == Cause::Unreadable) {
        return Ok(set);
    }
    if let Err(error) = cache::write(&file, &key, &set) {
        set.cache_trouble = Some(format!("cache: {} could not be written: {error}", file.display()));
    }
    Ok(set)
}

fn decode_set<T: Sample>(
    files: Vec<PathBuf>,
    options: &Options,
    tick: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<ImageSet<T>> {
    let per_image = options.values_per_image();
    let mut values = zeros(files.len(), per_image)?;
    // Every image goes straight to its place in `values`.
    let outcomes = for_each_image(&mut values, per_image, options.threads, tick, |index, place| {
        decode_one(index, &files[index], options, place)
    })?;

    let deep = outcomes.iter().any(|outcome| matches!(outcome, Ok(true)));
    let bad: Vec<Bad> = outcomes.into_iter().filter_map(std::result::Result::err).collect();
    if bad.len() == files.len() || (options.on_bad == OnBad::Raise && !bad.is_empty()) {
        return Err(refusal(&bad, files.len()));
    }
    let files = close_gaps(files, &bad, &mut values, per_image);
    Ok(ImageSet { values, files, skipped: bad, deep, from_cache: false, cache_trouble: None })
}

/// Whether the image had 16 bits a sample, or why there is none.
fn decode_one<T: Sample>(
    index: usize,
    file: &Path,
    options: &Options,
    place: &mut [T],
) -> std::result::Result<bool, Bad> {
    let work = || {
        let picture = decode_file(file, options.window, options.max_pixels)?;
        let picture = resize(to_channels(picture, options.channels), options.size)?;
        match &picture.pixels {
            Pixels::U8(samples) => spread(samples, options.channels, place, T::from_u8),
            Pixels::U16(samples) => spread(samples, options.channels, place, T::from_u16),
        }
        Ok(matches!(picture.pixels, Pixels::U16(_)))
    };
    // The decoders are other people's code under arbitrary input: a panic in one is that file's fault, not the run's.
    let outcome = catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(DecodeError::Content("the decoder failed on this file".into())));
    outcome.map_err(|error| Bad {
        index,
        file: file.to_path_buf(),
        cause: Cause::of(&error),
        reason: error.to_string(),
    })
}

/// Interleaved samples to one plane per channel.
fn spread<S: Copy, T>(samples: &[S], channels: usize, place: &mut [T], convert: fn(S) -> T) {
    let plane = place.len() / channels;
    for (channel, plane) in place.chunks_exact_mut(plane).enumerate() {
        for (value, &sample) in plane.iter_mut().zip(samples[channel..].iter().step_by(channels)) {
            *value = convert(sample);
        }
    }
}

pub(super) fn zeros<T: Sample>(images: usize, per_image: usize) -> Result<Vec<T>> {
    let too_large = || Error::Value(format!("size: {images} images of {per_image} values do not fit in memory"));
    let count = images.checked_mul(per_image).ok_or_else(too_large)?;
    Vec::<T>::new().try_reserve_exact(count).map_err(|_| too_large())?;
    Ok(vec![T::default(); count])
}

/// Moves the good images together over the bad ones and returns their files.
fn close_gaps<T: Sample>(files: Vec<PathBuf>, bad: &[Bad], values: &mut Vec<T>, per_image: usize) -> Vec<PathBuf> {
    if bad.is_empty() {
        return files;
    }
    let mut kept = Vec::with_capacity(files.len());
    for (index, file) in good(&files, bad) {
        values.copy_within(index * per_image..(index + 1) * per_image, kept.len() * per_image);
        kept.push(file.clone());
    }
    values.truncate(kept.len() * per_image);
    values.shrink_to_fit();
    kept
}

/// The files that are not among the bad ones, with their places.
pub(super) fn good<'a>(files: &'a [PathBuf], bad: &[Bad]) -> impl Iterator<Item = (usize, &'a PathBuf)> {
    let bad: HashSet<usize> = bad.iter().map(|bad| bad.index).collect();
    files.iter().enumerate().filter(move |(index, _)| !bad.contains(index))
}

fn refusal(bad: &[Bad], total: usize) -> Error {
    let mut text = format!("path: {} of {total} files cannot be read:", bad.len());
    for Bad { file, reason, .. } in bad.iter().take(NAMED_IN_MESSAGES) {
        let _ = write!(text, "\n  {}: {reason}", file.display());
    }
    if bad.len() > NAMED_IN_MESSAGES {
        let _ = write!(text, "\n  and {} more", bad.len() - NAMED_IN_MESSAGES);
    }
    if bad.iter().all(|bad| bad.cause == Cause::Missing) {
        Error::NotFound(text)
    } else {
        Error::Value(text)
    }
}
