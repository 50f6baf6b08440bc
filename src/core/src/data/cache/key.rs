//! What a cached set depends on, and the file that keeps it.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::data::levels::Value;
use crate::data::picture::Fit;
use crate::data::set::LoadOptions;
use crate::data::{decode, folder};
use crate::error::{Error, Result};

const EXTENSION: &str = "cache";
/// How the file begins.
pub(super) const MAGIC: &[u8; 16] = b"rust-diffusion 1";

/// What a cached set depends on: this version of the package, the options, the files as they are now.
pub struct Key {
    pub(super) bytes: Vec<u8>,
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
