"""Which files a set is made of, and where it is kept."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

from platformdirs import user_cache_path
from torch import Tensor

from rust_diffusion import _native

PathLike: TypeAlias = str | os.PathLike[str]


def is_paths(value: Any) -> bool:
    """Tell whether `value` is a path, or a list of them."""
    if isinstance(value, (list, tuple)):
        return bool(value) and all(isinstance(part, (str, os.PathLike)) for part in value)
    return isinstance(value, (str, os.PathLike))


def list_files(path: Any, sort: bool = True) -> list[Path]:
    """List the files that a folder, a file, a glob pattern or a list of files stands for.

    Raises
    ------
    FileNotFoundError, ValueError, OSError
        If there are none, or a folder cannot be read.
    TypeError
        If `path` is none of these.
    """
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


def cache_place(cache: Any) -> Path | None:
    """Return the file or folder that the argument `cache` stands for; None for no cache."""
    if cache is None or cache is False:
        return None
    if cache is True:
        return user_cache_path("rust_diffusion", appauthor=False, opinion=False, ensure_exists=True)
    if not isinstance(cache, (str, os.PathLike)):
        raise TypeError(f"cache must be True, False or a path, got {type(cache).__name__}")
    return Path(os.path.expanduser(cache))
