"""Rows of steps against quality, and their table and plot."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rust_diffusion.view import measures
from rust_diffusion.view.measures import LEVEL

DDPM = "DDPM"
#: More ways than matplotlib has colours of its own.
_COLOURS = [*(f"C{k}" for k in range(10)), "black", "gold"]


@dataclass(frozen=True)
class Compared:
    """Two sets by `compare_sets`' two discrepancies: of the images as they are, and by random filters."""

    images: measures.Discrepancy
    patches: measures.Discrepancy

    @property
    def p_value(self) -> float:
        """The smaller of the two, doubled for there being two (Bonferroni)."""
        return min(1.0, 2 * min(self.images.p_value, self.patches.p_value))


@dataclass(frozen=True)
class Row:
    """What one way drew with some number of calls."""

    way: str
    calls: int
    #: Root-mean-square distance of a pixel to the equation solved in T steps; None for ways that draw noise.
    distance: float | None
    held_out: Compared
    ddpm: Compared


def names(rows: Sequence[Row]) -> list[str]:
    """The ways, in their order, without DDPM, which is what they are compared with."""
    return list(dict.fromkeys(row.way for row in rows if row.way != DDPM))


def enough(rows: Sequence[Row], way: str) -> int | None:
    """The fewest calls from which on nothing that this way draws can be told from DDPM's."""
    found = None
    for row in sorted((row for row in rows if row.way == way), key=lambda row: -row.calls):
        if row.ddpm.p_value < LEVEL:
            break
        found = row.calls
    return found


def table(rows: Sequence[Row]) -> str:
    """Everything as Markdown: three tables, and what follows from them."""
    full = next(row for row in rows if row.way == DDPM)
    parts = [
        "### Distance to the same equation solved in T steps, from the same start noise (RMS of a pixel, of 2)",
        *_grid(rows, lambda row: "" if row.distance is None else f"{row.distance:.4f}"),
        f"### To held-out images: MMD² of patches, times 1000 (DDPM, {full.calls} calls: {_held_out(full)})",
        *_grid(rows, _held_out),
        f"### To DDPM's images: p, the smaller of two, doubled (DDPM drawn again: {full.ddpm.p_value:.3f})",
        *_grid(rows, lambda row: f"{row.ddpm.p_value:.3f}"),
        f"### Fewest calls from which on p is at least {LEVEL}",
        "\n".join(
            [
                "| | calls |",
                "|---|---|",
                *(f"| {way} | {enough(rows, way) or 'more'} |" for way in names(rows)),
            ]
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _held_out(row: Row) -> str:
    found = row.held_out.patches
    return f"{1000 * found.mmd2:.1f} (p = {found.p_value:.3f})"


def _grid(rows: Sequence[Row], cell: Callable[[Row], str]) -> list[str]:
    """One table: a line per way that has anything to say, a column per number of calls."""
    counts = sorted({row.calls for row in rows if row.way != DDPM})
    lines = [f"| calls | {' | '.join(map(str, counts))} |", "|---" * (len(counts) + 1) + "|"]
    for way in names(rows):
        cells = {row.calls: cell(row) for row in rows if row.way == way}
        if any(cells.values()):
            lines.append(f"| {way} | {' | '.join(cells[count] for count in counts)} |")
    return ["\n".join(lines)]


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw distance to the solved equation, to held-out images and to DDPM's images against calls."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.6), dpi=110, layout="constrained")
    axes = figure.subplots(1, 3)
    full = next(row for row in rows if row.way == DDPM)
    _curves(axes[0], rows, lambda row: row.distance)
    axes[0].set(
        title="to the equation solved in T steps, from the same noise", ylabel="RMS distance", yscale="log"
    )
    _curves(axes[1], rows, lambda row: row.held_out.patches.mmd2)
    axes[1].axhline(full.held_out.patches.mmd2, color="black", linewidth=1, label=f"DDPM, {full.calls} calls")
    axes[1].axhline(
        full.held_out.patches.by_chance, color="0.5", linewidth=1, linestyle=":", label="by chance"
    )
    axes[1].set(title="to held-out images", ylabel="MMD² of patches", yscale="symlog")
    axes[1].set_yscale("symlog", linthresh=0.01)
    _curves(axes[2], rows, lambda row: row.ddpm.patches.mmd2)
    axes[2].axhline(full.ddpm.patches.by_chance, color="0.5", linewidth=1, linestyle=":", label="by chance")
    axes[2].set(title="to DDPM's images", ylabel="MMD² of patches")
    axes[2].set_yscale("symlog", linthresh=0.01)
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)
    figure.savefig(path)


def _curves(axis: Any, rows: Sequence[Row], value: Callable[[Row], float | None]) -> None:
    for way, colour in zip(names(rows), itertools.cycle(_COLOURS), strict=False):
        points = [(row.calls, value(row)) for row in rows if row.way == way]
        if points[0][1] is not None:
            stochastic = next(row.distance for row in rows if row.way == way) is None
            style = {"linestyle": "--" if stochastic else "-", "color": colour}
            axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=way, **style)
    counts = sorted({row.calls for row in rows if row.way != DDPM})
    axis.set(xlabel="calls of the network", xscale="log")
    axis.set_xticks(counts, map(str, counts))
    axis.minorticks_off()
    axis.grid(alpha=0.3)
