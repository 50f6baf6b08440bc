"""Image sets: folders of slices as one tensor, decoded once and in parallel."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from platformdirs import user_cache_path
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from rust_diffusion import _native
from rust_diffusion.support import checks

PathLike: TypeAlias = str | os.PathLike[str]

ON_ERROR = ("raise", "skip")
DTYPES = (torch.float32, torch.uint8, torch.float16, torch.bfloat16, torch.float64)

# Nobody needs a bar for what is over in a blink.
_SECONDS_BEFORE_BAR = 2.0
# As many as an error message of the engine names.
_NAMED_IN_WARNINGS = 10


def load_images(
    path: PathLike | Iterable[PathLike],
    size: int = 64,
    *,
    channels: int = 1,
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
    size : int
        Side of the square images, 1 to 16384; other proportions are stretched, as the course does.
    channels : {1, 3}
        Grey or RGB. Alpha is dropped.
    dtype : torch.dtype
        A floating dtype for values in [-1, 1], or ``torch.uint8`` for the grey levels 0..255.
    on_error : {"raise", "skip"}
        What to do about files that are missing, damaged or no images: raise an error that names them, or go
        on without them after one warning.
    cache : bool or path, optional
        Keep the decoded set in a file, so that the next start is instant: True for the user's cache folder,
        or a file or an existing folder. It is rebuilt when a file's name, size or time of change or an option
        differs; a file of something else is refused, unless it is called ``.cache``.
    window : (level, width), optional
        For DICOM files, which need it: the part of the Hounsfield scale to show, for lungs about (-600,
        1500). The result then carries it as the attribute ``window``.
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
        Shape (N, channels, size, size).

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
    return _load(
        path, size, channels, dtype, on_error, cache, window, sort, max_pixels, threads, progress
    ).images


_LOAD_DEFAULTS: dict[str, Any] = dict(load_images.__kwdefaults__ or {})


class ImageSet(Dataset[Tensor]):
    """Slices as a map-style dataset for a `torch.utils.data.DataLoader`; all of them are in memory.

    Parameters
    ----------
    source : str, path, iterable of them, or Tensor
        As for `load_images`; or images that are there already, (N, C, H, W), floating in [-1, 1] or uint8.
    size : int
        As for `load_images`; a tensor keeps its size.
    transform : callable, optional
        Applied to each image as it is asked for: float32 in [-1, 1], (C, H, W).
    **options
        The other arguments of `load_images`. With ``dtype=torch.uint8`` the set takes a quarter of the memory
        and is normalised image by image.

    Attributes
    ----------
    images : Tensor
        The whole set, (N, C, H, W).
    files : list of Path
        Where each image came from; empty for a tensor.
    skipped : list of (Path, str)
        Files that ``on_error="skip"`` left out, with the reasons.
    window : (level, width) or None
        The window that DICOM files were read with.
    """

    def __init__(
        self,
        source: PathLike | Iterable[PathLike] | Tensor,
        size: int = 64,
        *,
        transform: Callable[[Tensor], Any] | None = None,
        **options: Any,
    ) -> None:
        if transform is not None and not callable(transform):
            raise TypeError(f"transform must be callable, got {type(transform).__name__}")
        if isinstance(source, Tensor):
            if options:
                raise TypeError(f"source is a tensor, which takes no {', '.join(sorted(options))}")
            if source.ndim != 4 or not (source.is_floating_point() or source.dtype == torch.uint8):
                raise ValueError(
                    "source must be (N, C, H, W), floating or uint8, "
                    f"got {tuple(source.shape)} of {source.dtype}"
                )
            loaded = _Loaded(source, [], [], None)
        else:
            loaded = _load(source, size, **{**_LOAD_DEFAULTS, **options})
        self.images, self.files, self.skipped, self.window = loaded
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        image = self.images[index]
        if image.dtype == torch.uint8:
            image = (image.to(torch.float32) / 255 - 0.5) / 0.5
        return image if self.transform is None else self.transform(image)

    def __repr__(self) -> str:
        return f"ImageSet({len(self)} images of {tuple(self.images.shape[1:])}, {self.images.dtype})"


class _Loaded(NamedTuple):
    images: Tensor
    files: list[Path]
    skipped: list[tuple[Path, str]]
    window: tuple[float, float] | None


def _load(
    path: Any,
    size: Any,
    channels: Any,
    dtype: Any,
    on_error: Any,
    cache: Any,
    window: Any,
    sort: bool,
    max_pixels: Any,
    threads: Any,
    progress: bool,
) -> _Loaded:
    size = checks.integer("size", size, 1, 16384)
    channels = checks.integer("channels", channels, 1, 3)
    if channels == 2:
        raise ValueError("channels must be 1 (grey) or 3 (RGB), got 2")
    max_pixels = checks.integer("max_pixels", max_pixels, 1, 2**40)
    dtype, window, threads = check_dtype(dtype), _window(window), check_threads(threads)
    skip = checks.choice("on_error", on_error, ON_ERROR) == "skip"
    cache = _cache(cache)
    paths = _files(path, sort)
    with Bar("Images", len(paths), progress) as on_progress:
        values, files, skipped, _, trouble = _native.load_images(
            paths,
            size,
            channels,
            levels=dtype == torch.uint8,
            skip=skip,
            window=window,
            max_pixels=max_pixels,
            threads=threads,
            cache=cache,
            on_progress=on_progress,
        )
    if trouble is not None:
        warnings.warn(trouble, RuntimeWarning, stacklevel=3)
    if skipped:
        warnings.warn(_skip_message(skipped, len(paths)), UserWarning, stacklevel=3)
    images = torch.from_numpy(values).view(-1, channels, size, size).to(dtype)
    if window is not None:
        images.window = window  # type: ignore[attr-defined]
    return _Loaded(images, files, skipped, window)


def _files(path: Any, sort: bool) -> list[Path]:
    if isinstance(path, (str, os.PathLike)):
        return _native.list_images(os.path.expanduser(path))
    if isinstance(path, (bytes, Tensor)) or not isinstance(path, Iterable):
        raise TypeError(
            f"path must be a folder, a file, a glob pattern or a list of files, got {type(path).__name__}"
        )
    files = list(path)
    for index, file in enumerate(files):
        if not isinstance(file, (str, os.PathLike)):
            raise TypeError(f"path[{index}] must be a str or a path, got {type(file).__name__}")
    if not files:
        raise ValueError("path is an empty list")
    names = [os.path.expanduser(os.fspath(file)) for file in files]
    return [Path(name) for name in (sorted(names) if sort else names)]


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
        raise ValueError(f"window must be (level, width) in Hounsfield units, got {window!r}")
    level, width = (checks.number(f"window[{index}]", window[index]) for index in range(2))
    if width <= 0:
        raise ValueError(f"window must have a width above 0, got {window!r}")
    return level, width


def check_threads(threads: Any) -> int:
    """Return the number of threads, 0 for one per core."""
    return 0 if threads is None else checks.integer("threads", threads, 1, 1024)


def _cache(cache: Any) -> Path | None:
    if cache is None or cache is False:
        return None
    if cache is not True:
        if not isinstance(cache, (str, os.PathLike)):
            raise TypeError(f"cache must be True, False or a path, got {type(cache).__name__}")
        return Path(os.path.expanduser(cache))
    return user_cache_path("rust_diffusion", appauthor=False, opinion=False, ensure_exists=True)


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
