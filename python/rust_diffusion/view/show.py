"""Pictures with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rust_diffusion.support import checks
from rust_diffusion.support.images import as_images, as_values, shared
from rust_diffusion.view.pictures import BLACK, WHITE, check_range, draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Inches of one image, of the title, and of a caption.
_SIDE, _TITLE, _CAPTION = 2.2, 0.4, 0.25


def show_batch(
    batch: Any,
    title: str | None = None,
    ncols: int = 6,
    *,
    captions: Sequence[Any] | None = None,
    vmin: float = BLACK,
    vmax: float = WHITE,
) -> Figure:
    """Draw the images of a batch in a row or, if there are more than `ncols`, in a grid.

    Parameters
    ----------
    batch : Tensor, array or list of images
        (N, C, H, W), (N, H, W) or one image (H, W), values in [-1, 1] or uint8; C is 1 (grey) or 3 (colour). Or
        one uint8 picture (H, W, C), or a list of images, PIL's too.
    title : str, optional
        Above the figure.
    ncols : int
        Images in a row.
    captions : sequence, optional
        What stands above each image.
    vmin, vmax : float
        The values shown black and white. Chest slices, whose tissue is dark grey, are easier to see with
        ``vmax=0``.

    Returns
    -------
    matplotlib.figure.Figure
        In Jupyter the figure is shown as the cell's output.

    Raises
    ------
    ValueError, TypeError
        If the batch is empty or of another shape, or another argument cannot be used.
    """
    import matplotlib.pyplot as plt

    ncols = checks.integer("ncols", ncols, 1)
    vmin, vmax = check_range(vmin, vmax)
    images = _images(batch)
    texts = [""] * len(images) if captions is None else [str(caption) for caption in captions]
    if len(texts) != len(images):
        raise ValueError(f"captions must be one for each image, got {len(texts)} for {len(images)} images")

    ncols = min(ncols, len(images))
    nrows = -(-len(images) // ncols)
    height = nrows * (_SIDE + (_CAPTION if captions is not None else 0)) + (_TITLE if title else 0)
    fig, axes = plt.subplots(
        nrows, ncols, figsize=(_SIDE * ncols, height), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, text in zip(axes.flat, images, texts, strict=False):
        draw(axis, image, text, vmin, vmax)
    if title:
        fig.suptitle(title)
    return fig


def _images(batch: Any) -> Tensor:
    if isinstance(batch, (Tensor, np.ndarray)) and batch.ndim in (2, 3):
        batch = shared("batch", batch)
        if batch.ndim == 3 and batch.dtype == torch.uint8 and batch.shape[-1] in (1, 3, 4):
            batch = [batch]  # one picture with its channels last
        else:
            batch = batch.reshape(-1, 1, *batch.shape[-2:])
    images = as_values(as_images(batch, "batch")).detach().cpu()
    if len(images) == 0 or images.shape[1] not in (1, 3):
        raise ValueError(f"batch must be (N, 1 or 3, H, W) with N >= 1, got {tuple(images.shape)}")
    return images
