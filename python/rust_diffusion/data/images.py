"""Folders of slices as one tensor, decoded once and in parallel."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from rust_diffusion import _native
from rust_diffusion.data.files import PathLike, cache_place, list_files
from rust_diffusion.support import checks
from rust_diffusion.support.images import as_values
from rust_diffusion.support.values import DARK
from rust_diffusion.support.warning import warn

ON_ERROR = ("raise", "skip")
DTYPES = (torch.float32, torch.uint8, torch.float16, torch.bfloat16, torch.float64)

# Nobody needs a bar for what is over in a blink.
_SECONDS_BEFORE_BAR = 2.0
# As many as an error message of the engine names.
_NAMED_IN_WARNINGS = 10
# What differs by less, in values, shows nothing.
_ONE_GREY = 0.1
# Enough to know how bright the files of a set are.
_LOOKED_AT = 16


def load_images(
    path: PathLike | Iterable[PathLike],
    size: int | tuple[int, int] = 64,
    *,
    channels: int = 1,
    fit: str = "stretch",
    dtype: torch.dtype = torch.float32,
    on_error: str = "raise",
    cache: bool | PathLike | None = None,
    window: Sequence[float] | None = None,
    sort: bool = True,
    max_pixels: int = _native.MAX_PIXELS,
    threads: int | None = None,
    progress: bool = True,
) -> Tensor:
    """Read a folder of slices into one tensor.

    Each image is what Pillow's ``convert("L")`` and torchvision's ``Resize((size, size), antialias=True)``,
    ``ToTensor()`` and ``Normalize((0.5,), (0.5,))`` make of the file. Grey of 16 bits is taken over its full
    range and keeps its precision, where Pillow would clip it.

    Parameters
    ----------
    path : str, path or iterable of them
        A folder (PNG, JPEG, TIFF and DICOM files in it and in its subfolders, one level down), a file, a glob
        pattern (``**`` for any depth), or a list of files.
    size : int or (height, width)
        Of the images, 1 to 16384; an integer is the side of square ones.
    channels : {1, 3}
        Grey or RGB. Alpha is dropped.
    fit : {"stretch", "crop", "pad"}
        What to do about files of other proportions: stretch them, as the course does; cut off what stands over
        (Pillow's ``ImageOps.fit``); or show all of them between black bars (``ImageOps.pad``).
    dtype : torch.dtype
        A floating dtype for values in [-1, 1], or ``torch.uint8`` for the grey levels 0..255.
    on_error : {"raise", "skip"}
        What to do about files that are missing, damaged or no images: raise an error that names them, or go
        on without them after one warning.
    cache : bool or path, optional
        Keep the decoded set in a file, so that the next start is instant: True for the user's cache folder,
        or a file or an existing folder. It is rebuilt when a file's name, size or time of change, an option or
        the package's version differs; a file of something else is refused, unless it is called ``.cache``.
    window : (level, width), optional
        The values to show, from black at ``level - width / 2`` to white at ``level + width / 2``. DICOM files
        need it, in Hounsfield units: for lungs about (-600, 1500). Other files of 16 bits are shown through it
        in their own values: 12-bit data by (2048, 4096). Files of 8 bits are taken as they are (with a
        warning where there are no others). The result then carries it as the attribute ``window``.
    sort : bool
        Sort by name, as ``sorted(glob.glob(...))`` does. False keeps the order of a list.
    max_pixels : int
        Files with more pixels are refused as decompression bombs.
    threads : int, optional
        Threads that decode; by default one per core.
    progress : bool
        Show a progress bar if it takes more than two seconds.

    Returns
    -------
    Tensor
        Shape (N, channels, height, width).

    Raises
    ------
    FileNotFoundError
        If the folder or files do not exist, or a pattern matches nothing.
    ValueError
        If files cannot be decoded (up to ten are named with the reasons), there are no images, or an argument
        is out of range.
    OSError
        If a folder cannot be read.
    TypeError
        If an argument has the wrong type.
    """
    return load_set(
        path, size, channels, fit, dtype, on_error, cache, window, sort, max_pixels, threads, progress
    ).images


class Loaded(NamedTuple):
    """What came of a set of files."""

    images: Tensor
    files: list[Path]
    skipped: list[tuple[Path, str]]
    window: tuple[float, float] | None


def load_set(
    path: Any,
    size: Any,
    channels: Any,
    fit: Any,
    dtype: Any,
    on_error: Any,
    cache: Any,
    window: Any,
    sort: bool,
    max_pixels: Any,
    threads: Any,
    progress: bool,
) -> Loaded:
    """Check the arguments of `load_images`, decode, and warn of what is wrong with the files."""
    size = checks.pair("size", size, _native.MAX_SIDE)
    channels = checks.integer("channels", channels, 1, 3)
    if channels == 2:
        raise ValueError("channels must be 1 (grey) or 3 (RGB), got 2")
    dtype, window = check_dtype(dtype), _window(window)
    options = {
        "fit": checks.choice("fit", fit, _native.FITS),
        "levels": dtype == torch.uint8,
        "skip": checks.choice("on_error", on_error, ON_ERROR) == "skip",
        "window": window,
        "max_pixels": checks.integer("max_pixels", max_pixels, 1, 2**40),
        "threads": check_threads(threads),
        "cache": cache_place(cache),
    }
    paths = list_files(path, sort)
    with Bar("Images", len(paths), progress) as on_progress:
        values, files, skipped, deep, trouble = _native.load_images(
            paths, size, channels, **options, on_progress=on_progress
        )
    images = torch.from_numpy(values).view(-1, channels, *size)
    if trouble is not None:
        warn(trouble, RuntimeWarning)
    if skipped:
        warn(_skip_message(skipped, len(paths)))
    if deep and window is None:
        _warn_of_darkness(images, files)
    if window is not None:
        _warn_of_window(images, window, deep)
    images = images.to(dtype)
    if window is not None:
        images.window = window  # type: ignore[attr-defined]
    return Loaded(images, files, skipped, window)


def _warn_of_window(images: Tensor, window: tuple[float, float], deep: bool) -> None:
    """Say that a window changes nothing, or shows next to nothing of the files."""
    if not deep:
        warn(f"window={window} changes nothing: it is for DICOM and files of 16 bits, and these have 8")
        return
    low, high = as_values(torch.stack(images.aminmax())).tolist()
    if high - low < _ONE_GREY:
        shade = "white" if low > 1 - _ONE_GREY else "black" if high < -1 + _ONE_GREY else "one grey"
        warn(
            f"the images are {shade} all over through window={window}: level and width are in the files' own values, "
            f"Hounsfield units for DICOM alone"
        )


def _warn_of_darkness(images: Tensor, files: Sequence[Path]) -> None:
    """Say that 16-bit files use a corner of their range, and what shows them."""
    brightest = images.max().item()
    # In levels of 16 bits; of 8 bits the lowest that is rounded to this one.
    level = (brightest - 0.5) * 257 if images.dtype == torch.uint8 else (brightest + 1) * 32767.5
    if 1 <= level < DARK:
        # what is reduced is darker at its brightest, and a window must not cut off what the files have
        own = _brightest(files)
        level = max(level, own) if own < DARK else level
        width = 1 << max(round(level), 1).bit_length()
        warn(
            f"the 16-bit files use only the lowest {width} of 65536 levels, and the images are nearly black: "
            f"window=({width // 2}, {width}) shows them from black to white"
        )


def _brightest(files: Sequence[Path]) -> int:
    """The highest level of grey files of 16 bits, looked up in some of them; 0 where Pillow cannot say."""
    brightest = 0
    for file in files[:: -(-len(files) // _LOOKED_AT)]:
        with (
            contextlib.suppress(OSError, ValueError, Image.DecompressionBombError),
            Image.open(file) as image,
        ):
            if image.mode.startswith("I"):
                highest: Any = image.getextrema()[1]
                brightest = max(brightest, int(highest))
    return brightest


def check_dtype(dtype: Any) -> torch.dtype:
    """Return `dtype` if images can have it."""
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype must be a torch.dtype, got {type(dtype).__name__}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(map(str, DTYPES))}, got {dtype}")
    return dtype


def _window(window: Any) -> tuple[float, float] | None:
    if window is None:
        return None
    if isinstance(window, (str, bytes)) or not hasattr(window, "__len__") or len(window) != 2:
        raise ValueError(f"window must be (level, width), got {window!r}")
    level, width = (checks.number(f"window[{index}]", window[index]) for index in range(2))
    if width <= 0:
        raise ValueError(f"window must have a width above 0, got {window!r}")
    return level, width


def check_threads(threads: Any) -> int:
    """Return the number of threads, 0 for one per core."""
    return 0 if threads is None else checks.integer("threads", threads, 1, 1024)


def _skip_message(skipped: list[tuple[Path, str]], total: int) -> str:
    lines = [f"{len(skipped)} of {total} files were left out:"]
    lines += [f"  {file}: {reason}" for file, reason in skipped[:_NAMED_IN_WARNINGS]]
    if len(skipped) > _NAMED_IN_WARNINGS:
        lines.append(f"  and {len(skipped) - _NAMED_IN_WARNINGS} more")
    return "\n".join(lines)


class Bar:
    """A progress bar that is told how many are done."""

    def __init__(self, name: str, total: int, progress: bool) -> None:
        self._bar = tqdm(
            total=total, desc=name, unit="image", disable=not progress, delay=_SECONDS_BEFORE_BAR
        )

    def __enter__(self) -> Callable[[int], None]:
        return self._done

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def _done(self, done: int) -> None:
        self._bar.update(done - self._bar.n)
