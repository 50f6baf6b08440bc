"""Pictures with matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rust_diffusion import _native
from rust_diffusion.support import checks

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def show_batch(batch: Any, title: str | None = None, ncols: int = 6) -> Figure:
    """Draw the images of a batch in a row or, if there are more than `ncols`, in a grid.

    Parameters
    ----------
    batch : Tensor or array
        (N, C, H, W), (N, H, W) or one image (H, W), values in [-1, 1]; C is 1 (grey) or 3 (colour).
    title : str, optional
        Above the figure.
    ncols : int
        Images in a row.

    Returns
    -------
    matplotlib.figure.Figure
        In Jupyter the figure is shown as the cell's output.

    Raises
    ------
    ValueError, TypeError
        If the batch is empty or of another shape.
    """
    import matplotlib.pyplot as plt

    ncols = checks.integer("ncols", ncols, 1)
    images = checks.tensor("batch", batch).detach().cpu()
    if images.ndim == 2:
        images = images[None, None]
    elif images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or images.shape[0] == 0 or images.shape[1] not in (1, 3):
        raise ValueError(f"batch must be (N, 1 or 3, H, W) with N >= 1, got {tuple(images.shape)}")
    pictures = _native.denormalize_to_01(images.float()).permute(0, 2, 3, 1).numpy()

    ncols = min(ncols, len(pictures))
    nrows = -(-len(pictures) // ncols)
    fig, axes = plt.subplots(
        nrows, ncols, figsize=(2.2 * ncols, 2.2 * nrows + (0.3 if title else 0)), squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, picture in zip(axes.flat, pictures, strict=False):
        axis.imshow(picture.squeeze(-1) if picture.shape[-1] == 1 else picture, cmap="gray", vmin=0, vmax=1)
    if title:
        fig.suptitle(title)
    fig.tight_layout()
    return fig
