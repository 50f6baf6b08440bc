//! Image sets: files to arrays, phantoms, and grey levels to values. The arrays take over the memory that the core filled.

use std::path::PathBuf;

use diffusion_core::choice::Choice;
use diffusion_core::data::{self, Bad, Fit, LoadOptions, OnBad, Size, Value, Window};
use diffusion_core::Result;
use numpy::{Element, PyArray1};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::detach::{attached, check_signals, detached};
use crate::error::to_py;
use crate::tensor::{from_python, to_python};

/// Values, files, (file, reason) of what was skipped, whether a file had 16 bits, and what went wrong in writing a cache.
type Loaded<'py> = (Bound<'py, PyAny>, Vec<PathBuf>, Vec<(PathBuf, String)>, bool, Option<String>);

/// The files that a folder, a file name or a glob pattern stands for, sorted by name.
#[pyfunction]
fn list_images(py: Python<'_>, path: PathBuf) -> PyResult<Vec<PathBuf>> {
    detached(py, || data::folder::list(&path))
}

/// Decode `files` into one flat array of images of `size` (height, width): uint8 if `levels`, else float32 in [-1, 1].
#[pyfunction]
#[pyo3(signature = (files, size, channels, *, fit, levels, skip, window, max_pixels, threads, cache, on_progress))]
#[allow(clippy::too_many_arguments)]
fn load_images<'py>(
    py: Python<'py>,
    files: Vec<PathBuf>,
    size: (u32, u32),
    channels: usize,
    fit: &str,
    levels: bool,
    skip: bool,
    window: Option<(f32, f32)>,
    max_pixels: u64,
    threads: usize,
    cache: Option<PathBuf>,
    on_progress: Option<PyObject>,
) -> PyResult<Loaded<'py>> {
    let options = LoadOptions {
        size: Size { height: size.0, width: size.1 },
        fit: Fit::parse(fit).map_err(to_py)?,
        channels,
        window: window.map(|(level, width)| Window { level, width }),
        max_pixels,
        threads,
        on_bad: if skip { OnBad::Skip } else { OnBad::Raise },
    };
    if levels {
        run::<u8>(py, files, &options, cache, on_progress)
    } else {
        run::<f32>(py, files, &options, cache, on_progress)
    }
}

fn run<'py, T: Value + Element>(
    py: Python<'py>,
    files: Vec<PathBuf>,
    options: &LoadOptions,
    cache: Option<PathBuf>,
    on_progress: Option<PyObject>,
) -> PyResult<Loaded<'py>> {
    let mut tick = |done| report(on_progress.as_ref(), done);
    let set = detached(py, || data::load::<T>(files, options, cache.as_deref(), &mut tick))?;
    let skipped = set.skipped.into_iter().map(|Bad { file, reason, .. }| (file, reason));
    let values = PyArray1::from_vec(py, set.values).into_any();
    Ok((values, set.files, skipped.collect(), set.deep, set.cache_trouble))
}

/// Draw `n` phantoms of `size` x `size` into one flat array: uint8 if `levels`, else float32 in [-1, 1].
#[pyfunction]
#[pyo3(signature = (n, size, seed, *, levels, threads, on_progress))]
fn phantoms<'py>(
    py: Python<'py>,
    n: usize,
    size: u32,
    seed: u64,
    levels: bool,
    threads: usize,
    on_progress: Option<PyObject>,
) -> PyResult<Bound<'py, PyAny>> {
    let mut tick = |done| report(on_progress.as_ref(), done);
    if levels {
        let values = detached(py, || data::phantoms::<u8>(n, size, seed, threads, &mut tick))?;
        Ok(PyArray1::from_vec(py, values).into_any())
    } else {
        let values = detached(py, || data::phantoms::<f32>(n, size, seed, threads, &mut tick))?;
        Ok(PyArray1::from_vec(py, values).into_any())
    }
}

/// The head phantom of Shepp and Logan, flat, float32 in [-1, 1].
#[pyfunction]
fn shepp_logan(py: Python<'_>, size: u32, threads: usize) -> PyResult<Bound<'_, PyAny>> {
    let values = detached(py, || data::shepp_logan(size, threads, &mut |_| check_signals()))?;
    Ok(PyArray1::from_vec(py, values).into_any())
}

/// A uint8 tensor of grey levels as float32 values in [-1, 1].
#[pyfunction]
fn grey_values<'py>(py: Python<'py>, levels: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let levels = from_python(levels, "levels")?;
    to_python(py, detached(py, move || data::to_values(&levels))?)
}

/// Ctrl-C, then the callback (images done).
fn report(on_progress: Option<&PyObject>, done: usize) -> Result<()> {
    check_signals()?;
    let Some(call) = on_progress else {
        return Ok(());
    };
    attached(|py| call.call1(py, (done,)).map(|_| ()))
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("FITS", PyTuple::new(m.py(), Fit::names())?)?;
    m.add("MAX_PIXELS", data::MAX_PIXELS)?;
    m.add("MAX_SIDE", data::MAX_SIDE)?;
    m.add_function(wrap_pyfunction!(list_images, m)?)?;
    m.add_function(wrap_pyfunction!(load_images, m)?)?;
    m.add_function(wrap_pyfunction!(phantoms, m)?)?;
    m.add_function(wrap_pyfunction!(shepp_logan, m)?)?;
    m.add_function(wrap_pyfunction!(grey_values, m)?)
}
