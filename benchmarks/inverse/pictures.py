"""What the first image of the test looks like, restored: one row for each task."""

from __future__ import annotations

from pathlib import Path

import rust_diffusion as rd
import torch
from rust_diffusion.inverse.baselines import CONVERGED
from torch import Tensor

from benchmarks.inverse.tasks import TASKS

COLUMNS = ("truth", "TV", "one draw", "mean of the draws", "standard deviation", "|mean - truth|")


def keep(folder: Path, task: str, truth: Tensor, found: rd.inverse.Posterior, weight: float) -> None:
    """Put the pictures of a task aside, for `draw`."""
    assert found.samples is not None
    K, y, _ = TASKS[task].measured(truth)
    tv = rd.tv_reconstruct(y[:1], K, weight, CONVERGED)[0]
    mean = found.mean[0]
    pictures = (truth[0], tv, found.samples[0, 0], mean, found.std[0], (mean - truth[0]).abs())
    folder.mkdir(exist_ok=True)
    torch.save(torch.stack(pictures), folder / f"{task}.pt")


def draw(folder: Path, path: Path) -> None:
    """Draw the pictures that were put aside."""
    from matplotlib.figure import Figure

    tasks = [task for task in TASKS if (folder / f"{task}.pt").is_file()]
    if not tasks:
        return
    figure = Figure(figsize=(2.0 * len(COLUMNS) + 0.6, 2.0 * len(tasks) + 0.3), dpi=64, layout="constrained")
    axes = figure.subplots(len(tasks), len(COLUMNS), squeeze=False)
    for row, task in zip(axes, tasks, strict=True):
        pictures = torch.load(folder / f"{task}.pt", weights_only=True)
        top, spread = float(pictures[0].max()), float(pictures[4:].max())
        for axis, picture, title in zip(row, pictures, COLUMNS, strict=True):
            grey = title in COLUMNS[:4]
            low, high, colours = (-1.0, top, "gray") if grey else (0.0, spread, "magma")
            shown = axis.imshow(picture[0], cmap=colours, vmin=low, vmax=high)
            axis.set(xticks=[], yticks=[], title=title if task == tasks[0] else "")
        row[0].set_ylabel(task)
        figure.colorbar(shown, ax=row[-1], shrink=0.8)
    figure.savefig(path)
