//! Many files to one block of memory, in parallel.

use std::fmt::Write;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use super::cache;
use super::decode::{decode_file, DecodeError};
use super::levels::Value;
use super::parallel::{for_each_part, zeros};
use super::picture::{fit, to_channels, Pixels};
use super::set::{good, Bad, Cause, ImageSet, LoadOptions, OnBad};
use crate::error::{Error, Result};

/// Bad files that a message names before it only counts.
const NAMED_IN_MESSAGES: usize = 10;

/// Decodes `files` in their order, or takes them from `cache` (a file, or a folder to keep the file in) if nothing has
/// changed since. `tick` is called on this thread with the number of images done; its error ends the run.
///
/// # Errors
/// `Value` for bad options and for files that cannot be decoded, `NotFound` if the only trouble is files that do not
/// exist, and whatever `tick` returns.
pub fn load<T: Value>(
    files: Vec<PathBuf>,
    options: &LoadOptions,
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

fn decode_set<T: Value>(
    files: Vec<PathBuf>,
    options: &LoadOptions,
    tick: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<ImageSet<T>> {
    let per_image = options.values_per_image();
    let mut values = zeros(files.len(), per_image)?;
    // Every image goes straight to its place in `values`.
    let outcomes = for_each_part(&mut values, per_image, options.threads, tick, |index, place| {
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
fn decode_one<T: Value>(
    index: usize,
    file: &Path,
    options: &LoadOptions,
    place: &mut [T],
) -> std::result::Result<bool, Bad> {
    let work = || {
        let picture = decode_file(file, options.window, options.max_pixels)?;
        let picture = fit(to_channels(picture, options.channels), options.size, options.fit)?;
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

/// Moves the good images together over the bad ones and returns their files.
fn close_gaps<T: Value>(files: Vec<PathBuf>, bad: &[Bad], values: &mut Vec<T>, per_image: usize) -> Vec<PathBuf> {
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
