//! Which files make up a set, and in which order.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The endings, in any case, that mark a file in a folder as an image. A file named by the caller needs none of them:
/// its content decides.
pub const EXTENSIONS: [&str; 6] = ["png", "jpg", "jpeg", "tif", "tiff", "dcm"];

/// The images that `path` stands for, sorted by name: a folder (images in it and in its subfolders, one level down),
/// a single file, or a glob pattern (`*`, `?`, `[...]`, and `**` for any depth).
///
/// # Errors
/// `NotFound` if there is no such file or folder or the pattern matches none; `Value` for a malformed pattern and for a
/// folder without images; `Io` for a folder that cannot be read.
pub fn list(path: &Path) -> Result<Vec<PathBuf>> {
    let mut files = if path.is_dir() {
        list_folder(path)?
    } else if path.exists() {
        vec![path.to_path_buf()]
    } else {
        list_pattern(path)?
    };
    sort_by_name(&mut files);
    Ok(files)
}

/// Sorts as Python sorts the strings: byte by byte over the whole path, separators included. (`Path` compares component
/// by component, which puts `a/1` before `a-b/1`.)
pub fn sort_by_name(files: &mut [PathBuf]) {
    files.sort_by(|a, b| a.as_os_str().as_encoded_bytes().cmp(b.as_os_str().as_encoded_bytes()));
}

fn list_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in visible_entries(folder)? {
        if !entry.is_dir() {
            files.extend(Some(entry).filter(|file| has_image_extension(file)));
        } else if !leads_back(&entry, folder) {
            files.extend(
                visible_entries(&entry)?.into_iter().filter(|file| has_image_extension(file) && !file.is_dir()),
            );
        }
    }
    if files.is_empty() {
        let endings = EXTENSIONS.map(|ending| format!("*.{ending}")).join(", ");
        return Err(Error::Value(format!(
            "path: {0} holds no images (looked for {endings} in it and in its subfolders, one level down; a pattern such \
             as \"{0}/**/*.png\" looks deeper)",
            folder.display()
        )));
    }
    Ok(files)
}

fn list_pattern(path: &Path) -> Result<Vec<PathBuf>> {
    let missing = || Error::NotFound(format!("path: there is no file or folder {}", path.display()));
    let Some(pattern) = path.to_str().filter(|text| text.contains(['*', '?', '['])) else {
        return Err(missing());
    };
    // A shell's rules, which are Python's: a wildcard crosses no separator and matches no leading dot.
    let options =
        glob::MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };
    let matches = glob::glob_with(pattern, options)
        .map_err(|error| Error::Value(format!("path: {pattern:?} is not a glob pattern: {error}")))?;
    let mut files = Vec::new();
    for entry in matches {
        let file = entry.map_err(|error| io_error(error.path().to_path_buf(), error.into()))?;
        files.extend(Some(file).filter(|file| !file.is_dir()));
    }
    if files.is_empty() {
        return Err(Error::NotFound(format!("path: no file matches {pattern:?}")));
    }
    Ok(files)
}

fn visible_entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(|error| io_error(folder.to_path_buf(), error))?;
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| io_error(folder.to_path_buf(), error))?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    Ok(paths)
}

pub(super) fn has_image_extension(file: &Path) -> bool {
    let ending = file.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase);
    ending.is_some_and(|ending| EXTENSIONS.contains(&ending.as_str()))
}

/// Whether `entry` is a link to `folder` itself or to a folder above it: its images would be listed twice.
fn leads_back(entry: &Path, folder: &Path) -> bool {
    match (entry.canonicalize(), folder.canonicalize()) {
        (Ok(entry), Ok(folder)) => folder.starts_with(entry),
        _ => false,
    }
}

fn io_error(path: PathBuf, source: std::io::Error) -> Error {
    let text = format!("path: cannot read {}: {source}", path.display());
    if source.kind() == std::io::ErrorKind::NotFound {
        Error::NotFound(text)
    } else {
        Error::Io(text)
    }
}
