//! The decoded set in one file, so that the next start reads megabytes instead of decoding gigabytes.
//!
//! Layout, little-endian: magic; length of the key and the key; bytes per value (1 or 2); number of skipped files and for
//! each its index, whether it was missing, and the reason; the values as grey levels; CRC-32 of all that. The key is the package's version,
//! the options and the whole list of files with sizes and times, compared byte for byte: no collision can pass off one set as another.

mod checked;
mod key;

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use self::checked::Checked;
pub use self::key::Key;
use self::key::MAGIC;
use super::levels::Value;
use super::set::{good, Bad, Cause, ImageSet, LoadOptions, OnBad};
use crate::error::Result;

/// Bytes handled at a time: few calls, little memory.
const BLOCK: usize = 1 << 22;

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
    let kept: Vec<PathBuf> = good(files, &skipped).map(|(_, file)| file.clone()).collect();
    let per_image = options.values_per_image();
    let count = kept.len() * per_image;
    let wanted = skipped.is_empty() || options.on_bad == OnBad::Skip;
    if !wanted || !input.has_left(count as u64 * if deep { 2 } else { 1 }) {
        return Ok(None);
    }
    let values = read_values(&mut input, count, deep, &mut |read| tick(read / per_image))?;
    let (Some(values), true) = (values, input.ends_well()) else {
        return Ok(None);
    };
    Ok(Some(ImageSet { values, files: kept, skipped, deep, from_cache: true, cache_trouble: None }))
}

fn read_values<T: Value>(
    input: &mut Checked,
    count: usize,
    deep: bool,
    tick: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Option<Vec<T>>> {
    let width = if deep { 2 } else { 1 };
    let levels: Vec<T> = (0..=u8::MAX).map(T::from_u8).collect();
    let mut values: Vec<T> = Vec::with_capacity(count);
    let mut block = vec![0; BLOCK];
    while values.len() < count {
        tick(values.len())?;
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
    Ok(Some(values))
}

/// What stands before the values: bits a sample, and what was skipped.
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
