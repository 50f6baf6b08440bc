"""Images as grey levels: single pictures, grids, and the frames of an animation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rust_diffusion._native import denormalize_to_01
from rust_diffusion.support import checks

Picture = npt.NDArray[np.uint8]

#: The values that are shown black and white if nothing else is asked for.
BLACK, WHITE = -1.0, 1.0
#: Pixels between the images of a grid, and the least height an image is enlarged to in it.
_GAP, _HEIGHT = 2, 128
#: An animation runs for some seconds, whatever the number of steps.
FRAMES = 50


def to_pictures(images: Tensor, vmin: float = BLACK, vmax: float = WHITE) -> Picture:
    """Turn values, (N, C, H, W) with C 1 or 3, into grey levels, (N, H, W) or (N, H, W, 3).

    `vmin` becomes black and `vmax` white.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images must be (N, 1 or 3, H, W) to be shown, got {tuple(images.shape)}")
    values = images.detach().cpu().float()
    if (vmin, vmax) != (BLACK, WHITE):
        values = (values - vmin) * (2 / (vmax - vmin)) - 1
    levels = (denormalize_to_01(values) * 255).round().to(torch.uint8)
    pictures: Picture = levels.permute(0, 2, 3, 1).numpy()
    return pictures[..., 0] if pictures.shape[-1] == 1 else pictures


def check_range(vmin: Any, vmax: Any) -> tuple[float, float]:
    """Return the values shown black and white as numbers.

    Raises
    ------
    ValueError, TypeError
        If they are none, or `vmin` is not below `vmax`.
    """
    vmin, vmax = checks.number("vmin", vmin), checks.number("vmax", vmax)
    if vmin >= vmax:
        raise ValueError(f"vmin must be below vmax, got {vmin} and {vmax}")
    return vmin, vmax


def draw(axis: Any, image: Tensor, caption: str = "", vmin: float = BLACK, vmax: float = WHITE) -> None:
    """Draw one image, (C, H, W), on an axis of matplotlib's."""
    axis.imshow(to_pictures(image[None], vmin, vmax)[0], cmap="gray", vmin=0, vmax=255)
    axis.set_title(caption, fontsize="small")
    axis.axis("off")


def grid(images: Tensor, ncols: int | None = None) -> Picture:
    """Lay out images in rows on white, small ones enlarged by whole pixels.

    Parameters
    ----------
    images : Tensor
        (N, C, H, W) in [-1, 1], C is 1 or 3.
    ncols : int, optional
        Images in a row. Default: as near to a square as can be.
    """
    pictures = to_pictures(images)
    count, height, width = pictures.shape[:3]
    scale = max(1, math.ceil(_HEIGHT / height))
    pictures = pictures.repeat(scale, axis=1).repeat(scale, axis=2)
    height, width = height * scale, width * scale
    ncols = min(count, ncols or math.ceil(math.sqrt(count)))
    nrows = math.ceil(count / ncols)
    shape = (nrows * (height + _GAP) + _GAP, ncols * (width + _GAP) + _GAP, *pictures.shape[3:])
    sheet = np.full(shape, 255, dtype=np.uint8)
    for k, picture in enumerate(pictures):
        top = _GAP + (k // ncols) * (height + _GAP)
        left = _GAP + (k % ncols) * (width + _GAP)
        sheet[top : top + height, left : left + width] = picture
    return sheet


class Frames:
    """Collect a sampler's iterates for an animation: give it to the sampler as `callback`."""

    def __init__(self) -> None:
        self._batches: list[list[Tensor]] = []

    def __call__(self, step: Any) -> None:
        """Keep some of the iterates, evenly spaced, but not the last, which is the result."""
        if step.index == 0:
            self._batches.append([])
        if step.index % math.ceil(step.total / FRAMES) == 0 and step.index < step.total - 1:
            self._batches[-1].append(step.x.cpu())

    def __iter__(self) -> Any:
        """Give the frames in order, each with the images of all batches."""
        return (torch.cat(parts) for parts in zip(*self._batches, strict=True))
