//! A set of decoded images: what was asked for, what came of it, and which files gave none.

use std::collections::HashSet;
use std::path::PathBuf;

use super::decode::{DecodeError, MAX_PIXELS};
use super::picture::{Fit, Size, Window};
use crate::error::{ensure, Error, Result};

/// The greatest height and width that images are brought to.
pub const MAX_SIDE: u32 = 16384;

/// What to do about a file that is missing, damaged or no image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnBad {
    Raise,
    Skip,
}

/// What is made of every file.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    pub size: Size,
    /// What is done about other proportions than those of `size`.
    pub fit: Fit,
    /// 1 (grey) or 3 (RGB).
    pub channels: usize,
    /// Needed for DICOM files; others of 16 bits are shown through it too.
    pub window: Option<Window>,
    /// Pixels above which a file is refused.
    pub max_pixels: u64,
    /// Threads that decode; 0 for one per core.
    pub threads: usize,
    pub on_bad: OnBad,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions {
            size: Size::square(64),
            fit: Fit::Stretch,
            channels: 1,
            window: None,
            max_pixels: MAX_PIXELS,
            threads: 0,
            on_bad: OnBad::Raise,
        }
    }
}

impl LoadOptions {
    pub(super) fn values_per_image(&self) -> usize {
        self.channels * self.size.pixels()
    }

    pub(super) fn check(&self) -> Result<()> {
        let sides = [self.size.height, self.size.width];
        ensure!(
            sides.iter().all(|side| (1..=MAX_SIDE).contains(side)),
            Value,
            "size: got {}, takes 1 to {MAX_SIDE}",
            self.size
        );
        ensure!([1, 3].contains(&self.channels), Value, "channels: got {}, takes 1 (grey) or 3 (RGB)", self.channels);
        match self.window {
            Some(Window { level, width }) if !(level.is_finite() && width.is_finite() && width > 0.0) => {
                Err(Error::Value(format!("window: got ({level}, {width}), takes a finite level and a width above 0")))
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
    pub(super) fn of(error: &DecodeError) -> Cause {
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

/// The files that are not among the bad ones, with their places.
pub(super) fn good<'a>(files: &'a [PathBuf], bad: &[Bad]) -> impl Iterator<Item = (usize, &'a PathBuf)> {
    let bad: HashSet<usize> = bad.iter().map(|bad| bad.index).collect();
    files.iter().enumerate().filter(move |(index, _)| !bad.contains(index))
}
