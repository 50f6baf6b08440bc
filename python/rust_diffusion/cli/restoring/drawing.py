"""What `reconstruct` leaves as arrays and pictures: measurement, mean, spread and error beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from rust_diffusion._native import denormalize_to_01
from rust_diffusion.cli import outputs
from rust_diffusion.cli.restoring.measurements import Measurements
from rust_diffusion.cli.restoring.methods import Reconstruction
from rust_diffusion.inverse.metrics import per_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Images in a picture: more would not be seen.
MOST_ROWS = 8
#: Inches of one image, of a caption and of a colour bar.
_SIDE, _CAPTION, _BAR = 2.2, 0.3, 0.5
#: Share of the pixels that a scale of colours reaches to: single ones may be far out.
_REACH = 0.999
#: White is no darker than this.
_DARKEST = -0.5
_Columns = dict[str, Tensor]


def write_arrays(folder: Path, measured: Measurements, found: Sequence[Reconstruction]) -> None:
    """Write values as .npy files: what was measured, and what was made of it."""
    outputs.write(folder / "measurement.npy", measured.y)
    outputs.write(folder / "mean.npy", found[0].images)
    for other in found[1:]:
        outputs.write(folder / f"{other.name}.npy", other.images)
    if found[0].draws is not None:
        outputs.write(folder / "std.npy", found[0].draws.std)
        if found[0].draws.samples is not None:
            outputs.write(folder / "samples.npy", found[0].draws.samples)


def write_pictures(folder: Path, measured: Measurements, found: Sequence[Reconstruction], unit: bool) -> None:
    """Draw the measurement, the mean, its spread, and all beside each other; `unit` as --unit-range."""
    outputs.write_figure(folder / "measurement.png", _measurement_figure(measured, unit))
    outputs.write(folder / "mean.png", found[0].images.cpu().clamp(-1, 1))
    if found[0].draws is not None:
        outputs.write_figure(folder / "std.png", _figure({"std": found[0].draws.std}, measured.names))
    outputs.write_figure(folder / "beside.png", _beside(measured, found, unit))


def _beside(measured: Measurements, found: Sequence[Reconstruction], unit: bool) -> Figure:
    """One row per image: truth, what was measured, the mean, its spread and its error."""
    first = found[0]
    columns: _Columns = {} if measured.truth is None else {"truth": measured.truth}
    direct = next((other for other in found if other.name == "fbp"), None)
    if direct is not None and direct is not first:
        columns["FBP"] = direct.images.cpu()
    elif direct is None:
        columns["measurement"] = 2 * measured.y - 1 if unit else measured.y
    name = first.name.upper() if first.count < 2 else f"{first.name.upper()}, mean"
    columns[name] = first.images.cpu()
    if first.draws is not None and first.count > 1:
        columns["std"] = first.draws.std.cpu()
    if measured.truth is not None:
        columns["error"] = (columns[name] - measured.truth).abs()
    return _figure(columns, measured.names, measured.truth, _white(measured.truth, columns[name]))


def _white(truth: Tensor | None, images: Tensor) -> float:
    """Grey that is shown white: slices are dark, and would be hard to see between -1 and 1."""
    shown = (images if truth is None else truth)[:MOST_ROWS].float()
    return min(max(float(shown.flatten().quantile(_REACH)), _DARKEST), 1.0)


def _figure(
    columns: _Columns, names: Sequence[str], truth: Tensor | None = None, white: float = 1.0
) -> Figure:
    """Grey pictures from -1, black, to `white`; "std" and "error" in colours of one scale."""
    from matplotlib.figure import Figure

    rows = min(MOST_ROWS, len(names))
    colours = [name for name in columns if name in ("std", "error")]
    top = max((float(columns[name][:rows].float().quantile(_REACH)) for name in colours), default=0.0) or 1e-6
    width = _SIDE * len(columns) + _BAR * bool(colours) + _CAPTION
    figure = Figure(figsize=(width, (_SIDE + _CAPTION) * rows + _CAPTION), dpi=110, layout="constrained")
    axes = figure.subplots(rows, len(columns), squeeze=False)
    shown: Any = None
    for row, line in enumerate(axes):
        for axis, (name, images) in zip(line, columns.items(), strict=True):
            axis.set_xticks([])
            axis.set_yticks([])
            caption = name
            if name in colours:
                shown = axis.imshow(images[row].mean(0).numpy(), cmap="magma", vmin=0, vmax=top)
            else:
                axis.imshow(_grey(images[row], white), cmap="gray", vmin=0, vmax=1)
                caption += _decibels(name, images[row : row + 1], truth, row)
            axis.set_title(caption, fontsize="small")
        line[0].set_ylabel(names[row], fontsize="small")
    if shown is not None:
        figure.colorbar(shown, ax=axes, shrink=0.6, label="in units of images in [-1, 1]", extend="max")
    if len(columns) > len(colours):
        figure.supxlabel(f"grey from -1 (black) to {white:.2g} (white)", fontsize="small")
    return figure


def _decibels(name: str, image: Tensor, truth: Tensor | None, row: int) -> str:
    """Tell how near a picture is to the truth, where both are known and of one size."""
    if truth is None or name == "truth" or image.shape != truth[row : row + 1].shape:
        return ""
    value = per_image("PSNR", denormalize_to_01(image.float()), denormalize_to_01(truth[row : row + 1]))
    return f", {float(value):.1f} dB"


def _grey(image: Tensor, white: float) -> npt.NDArray[Any]:
    """(H, W), or (H, W, 3), from 0 to 1."""
    values = ((image.detach().cpu().float() + 1) / (white + 1)).clamp(0, 1).movedim(0, -1)
    shown: npt.NDArray[Any] = (values if values.shape[-1] == 3 else values.mean(-1)).numpy()
    return shown


def _measurement_figure(measured: Measurements, unit: bool) -> Figure:
    """Measurements between their least and their largest value."""
    from matplotlib.figure import Figure

    rows = min(MOST_ROWS, len(measured.y))
    height, width = measured.y.shape[-2:]
    figure = Figure(
        figsize=(_SIDE * 1.6 + 1, rows * _SIDE * 1.6 * min(max(height / width, 0.3), 1.5) + _CAPTION),
        dpi=110,
        layout="constrained",
    )
    axes = figure.subplots(rows, 1, squeeze=False)[:, 0]
    for row, axis in enumerate(axes):
        values = np.asarray(measured.y[row].mean(0).cpu())
        shown = axis.imshow(values, cmap="gray", aspect="auto" if height / width < 0.3 else "equal")
        axis.set_title(measured.names[row], fontsize="small")
        axis.set_xticks([])
        axis.set_yticks([])
        figure.colorbar(shown, ax=axis)
    return figure
