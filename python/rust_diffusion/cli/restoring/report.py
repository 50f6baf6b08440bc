"""What `reconstruct` tells in numbers: one row per image and method, and their means as a table."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rust_diffusion._native import denormalize_to_01
from rust_diffusion.cli.restoring.measurements import Measurements
from rust_diffusion.cli.restoring.methods import SHARE, Reconstruction, residual_of
from rust_diffusion.files import atomic
from rust_diffusion.inverse.metrics import per_image
from rust_diffusion.inverse.operator import Operator

#: Columns of the table, with the format of their numbers on the terminal.
COLUMNS = {
    "psnr": "{:.2f}",
    "ssim": "{:.3f}",
    "chi2": "{:.2f}",
    "coverage": "{:.3f}",
    "nominal": "{:.3f}",
    "calls": "{:.0f}",
    "seconds": "{:.2f}",
}
_TITLES = {
    "psnr": "PSNR dB",
    "ssim": "SSIM",
    "chi2": "chi^2",
    "coverage": "coverage",
    "nominal": "nominal",
    "calls": "calls",
    "seconds": "s/image",
}
Row = dict[str, Any]
#: The share of pixels that an interval holds, and the share that it should.
_Interval = tuple[Tensor | None, Tensor | None]


def rows_of(found: Reconstruction, operator: Operator, measured: Measurements) -> list[Row]:
    """One row per image of what a method made; with draws, one of a single draw too."""
    chi2 = residual_of(operator, found.images, measured) if measured.noisy else None
    name = f"{found.name}, {found.how}" if found.how else found.name
    cost = {"calls": found.calls, "seconds": found.seconds / len(measured.y)}
    draws, truth = found.draws, measured.truth
    if draws is None:
        return _rows(name, measured, found.images, chi2, (None, None), cost)
    covered = nominal = None
    if truth is not None:
        share = min(SHARE, (found.count - 1) / (found.count + 1))
        nominal = torch.full((len(truth),), share, dtype=torch.float64)
        covered = ((draws.low.cpu() <= truth) & (truth <= draws.high.cpu())).double().flatten(1).mean(1)
    cost_of_one = {column: value / found.count for column, value in cost.items()}
    of_one = None if chi2 is None else draws.chi2
    one = _rows(f"{found.name}, one draw", measured, draws.one, of_one, (None, None), cost_of_one)
    if found.count == 1:
        return one
    return [*_rows(name, measured, found.images, chi2, (covered, nominal), cost), *one]


def _rows(
    name: str, measured: Measurements, images: Tensor, chi2: Tensor | None, interval: _Interval, cost: Row
) -> list[Row]:
    columns: dict[str, Tensor | None] = {
        "psnr": None,
        "ssim": None,
        "chi2": chi2,
        "coverage": interval[0],
        "nominal": interval[1],
    }
    if measured.truth is not None:
        pair = denormalize_to_01(images.cpu()), denormalize_to_01(measured.truth)
        columns |= {"psnr": per_image("PSNR", *pair), "ssim": per_image("SSIM", *pair)}
    return [
        {
            "image": image,
            "method": name,
            **{column: _number(values, k) for column, values in columns.items()},
            **cost,
        }
        for k, image in enumerate(measured.names)
    ]


def _number(values: Any, k: int) -> float | None:
    return None if values is None else float(values[k])


def table_of(rows: list[Row]) -> str:
    """The means over the images, a line per method; columns that nothing is known of are left out."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    columns = [column for column in COLUMNS if any(row[column] is not None for row in rows)]
    lines = [["", *(_TITLES[column] for column in columns)]]
    for method in methods:
        own = [row for row in rows if row["method"] == method]
        lines.append([method, *(_mean(own, column) for column in columns)])
    widths = [max(len(line[k]) for line in lines) for k in range(len(columns) + 1)]
    return "\n".join(
        "  ".join(
            word.ljust(width) if k == 0 else word.rjust(width)
            for k, (word, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def _mean(rows: list[Row], column: str) -> str:
    values = [row[column] for row in rows if row[column] is not None]
    return COLUMNS[column].format(sum(values) / len(values)) if values else "-"


def write_results(folder: Path, rows: list[Row], about: Row) -> None:
    """Write results.csv, one line per image and method, and results.json, with the settings beside them."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic.replacing(folder / "results.csv") as file:
        file.write(text.getvalue().encode())
    whole = {"settings": about, "results": [{k: _finite(v) for k, v in row.items()} for row in rows]}
    with atomic.replacing(folder / "results.json") as file:
        file.write((json.dumps(whole, indent=1) + "\n").encode())


def _finite(value: Any) -> Any:
    """JSON has no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
