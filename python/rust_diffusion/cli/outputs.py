"""What commands write: images in the form that a file's name asks for, and a line for each epoch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rust_diffusion.files import atomic
from rust_diffusion.training.result import EpochInfo
from rust_diffusion.view.pictures import grid, to_pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: An animation rests on its last frame, the result.
_FRAME_MS, _LAST_FRAME_MS = 80, 2000


def check_target(path: str | os.PathLike[str]) -> Path:
    """Refuse, before any work is done, what `write` could not write."""
    target = Path(path)
    if target.suffix not in (*_WRITERS, ".gif", ""):
        raise ValueError(f"out must end in .png, .npy, .pt or .gif, or be a folder, got {str(path)!r}")
    if not target.suffix:
        return check_folder(target)
    if target.is_dir():
        raise IsADirectoryError(f"out: {target} is a folder")
    return _writable(target)


def check_folder(path: str | os.PathLike[str]) -> Path:
    """Refuse, before any work is done, what cannot become a folder with files in it."""
    target = Path(path)
    if target.suffix in (*_WRITERS, ".gif") and not target.is_dir():
        raise ValueError(f"out must be a folder, got {str(path)!r}")
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"out: {target} is a file, not a folder")
    return _writable(target)


def _writable(target: Path) -> Path:
    if not target.parent.is_dir():
        raise FileNotFoundError(f"out: there is no folder {target.parent}")
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(f"out: no permission to write {target}")
    try:
        tempfile.TemporaryFile(dir=target if target.is_dir() else target.parent).close()
    except OSError as error:
        raise PermissionError(f"out: {target} cannot be written: {error.strerror}") from None
    return target


def write(path: str | os.PathLike[str], images: Tensor, frames: Sequence[Tensor] = ()) -> None:
    """Write images in the form that the name asks for.

    Parameters
    ----------
    path : str or path
        ``.png`` is a grid, a name without suffix a folder of single PNGs in order, ``.npy`` and ``.pt`` the
        float32 values themselves, ``.gif`` an animation of the frames.
    images : Tensor
        (N, C, H, W) in [-1, 1].
    frames : sequence of Tensor
        For a ``.gif``: the same images on their way, each of the shape of `images`.
    """
    target = check_target(path)
    if not target.suffix:
        _write_folder(target, images)
        return
    with atomic.replacing(target) as file:
        if target.suffix == ".gif":
            _write_animation(file, (*frames, images))
        else:
            _WRITERS[target.suffix](file, images)


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure of matplotlib's as a PNG."""
    with atomic.replacing(path) as file:
        figure.savefig(file, format="png")


def epoch_lines(say: Callable[[str], Any]) -> Callable[[EpochInfo], None]:
    """Make a callback for `train` that says a line per epoch: what a log keeps of a progress bar."""

    def line(epoch: EpochInfo) -> None:
        validation = "" if epoch.val_loss is None else f"  validation {epoch.val_loss:.5f}"
        of = "" if epoch.epochs is None else f"/{epoch.epochs}"
        say(
            f"epoch {epoch.epoch + 1}{of}  loss {epoch.loss:.5f}{validation}  lr {epoch.lr:.2e}  "
            f"{epoch.images_per_second:.1f} images/s"
        )

    return line


def _write_grid(file: Any, images: Tensor) -> None:
    Image.fromarray(grid(images)).save(file, "PNG")


def _write_array(file: Any, images: Tensor) -> None:
    np.save(file, images.cpu().numpy())


def _write_tensor(file: Any, images: Tensor) -> None:
    torch.save(images.cpu(), file)


def _write_animation(file: Any, frames: Sequence[Tensor]) -> None:
    sheets = [Image.fromarray(grid(frame)) for frame in frames]
    durations = [_FRAME_MS] * (len(sheets) - 1) + [_LAST_FRAME_MS]
    sheets[0].save(file, "GIF", save_all=True, append_images=sheets[1:], duration=durations, loop=0)


def _write_folder(folder: Path, images: Tensor) -> None:
    folder.mkdir(exist_ok=True)
    digits = max(4, len(str(len(images) - 1)))
    for k, picture in enumerate(to_pictures(images)):
        with atomic.replacing(folder / f"{k:0{digits}d}.png") as file:
            Image.fromarray(picture).save(file, "PNG")


_WRITERS: dict[str, Callable[[Any, Tensor], None]] = {
    ".png": _write_grid,
    ".npy": _write_array,
    ".pt": _write_tensor,
}
