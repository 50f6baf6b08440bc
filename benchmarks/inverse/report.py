"""The tables, the raw numbers and the plot."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from benchmarks.inverse.score import Row
from benchmarks.inverse.tasks import TASKS

HEAD = (
    "| method | images × draws | one: PSNR | SSIM | mean: PSNR | SSIM "
    "| χ² | coverage | network calls | seconds a draw |"
)
#: How far the coverage may be from what is exact.
TOLERATED = 0.03


def exact_coverage(samples: int) -> float:
    """Return how often the truth lies between the quantiles of so many draws if it could be one of them.

    Below 19 draws the quantiles are the smallest and the largest.
    """
    return min(0.9, (samples - 1) / (samples + 1))


class Results:
    """All rows of one source of images; what an earlier run left is kept."""

    def __init__(self, folder: Path, source: str, about: dict[str, Any]) -> None:
        self.folder, self.source, self.about = folder, source, about
        self._file = folder / f"{source}.json"
        self.rows: dict[tuple[str, str], Row] = {}
        if self._file.is_file():
            for row in json.loads(self._file.read_text(encoding="utf-8"))["rows"]:
                self.add(Row(**row), write=False)

    def has(self, task: str, method: str, images: int, samples: int) -> bool:
        """Whether that was measured already, on as many images with as many draws."""
        row = self.rows.get((task, method))
        return row is not None and row.images == images and row.samples in (1, samples)

    def add(self, row: Row, *, write: bool = True) -> None:
        """Keep a row in the place of an older one."""
        self.rows[row.task, row.method] = row
        if write:
            self.write()

    def write(self) -> None:
        """Write tables, raw numbers and the plot."""
        rows = sorted(self.rows.values(), key=lambda row: list(TASKS).index(row.task))
        raw = {"about": self.about, "rows": [asdict(row) for row in rows]}
        self._file.write_text(json.dumps(raw, indent=1), encoding="utf-8")
        with (self.folder / f"{self.source}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Row)])
            writer.writeheader()
            writer.writerows(asdict(row) for row in rows)
        (self.folder / f"{self.source}.md").write_text(self.table(), encoding="utf-8")
        plot(rows, self.source, self.folder / f"{self.source}.png")

    def table(self) -> str:
        """Everything as Markdown."""
        lines = [", ".join(f"{key}: {value}" for key, value in self.about.items()), ""]
        for task in TASKS:
            rows = [row for row in self.rows.values() if row.task == task]
            if rows:
                lines += [f"### {TASKS[task].title}", "", HEAD, "|---" * (HEAD.count("|") - 1) + "|"]
                lines += [_line(row) for row in rows]
                lines.append("")
        return "\n".join(lines)


def _line(row: Row) -> str:
    name = row.method if row.weight is None else f"{row.method}, λ {row.weight:g}"
    calls = f"{row.forward}" + (f" + {row.backward} back" if row.backward else "")
    cells = [
        name,
        f"{row.images} × {row.samples}",
        f"{row.psnr:.2f}",
        f"{row.ssim:.3f}",
        "" if row.psnr_mean is None else f"{row.psnr_mean:.2f}",
        "" if row.ssim_mean is None else f"{row.ssim_mean:.3f}",
        "" if row.chi2 is None else f"{row.chi2:.3g}",
        "" if row.coverage is None else f"{row.coverage:.3f}",
        calls if row.forward else "",
        f"{row.seconds:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def plot(rows: list[Row], source: str, path: Path) -> None:
    """Draw what the mean of the draws gains over total variation, and how many pixels the intervals cover."""
    from matplotlib.figure import Figure

    floor = {row.task: row.psnr for row in rows if row.method == "tv"}
    tasks = [task for task in TASKS if task in floor]
    drawn = {row.method for row in rows if row.psnr_mean is not None and row.task in floor}
    methods = [name for name in dict.fromkeys(row.method for row in rows) if name in drawn]
    if not methods:
        return
    figure = Figure(figsize=(11, 4.4), dpi=110, layout="constrained")
    gain, cover = figure.subplots(1, 2)
    by = {(row.task, row.method): row for row in rows}
    width = 0.8 / len(methods)
    for index, name in enumerate(methods):
        found = [(place, by[task, name]) for place, task in enumerate(tasks) if (task, name) in by]
        at = [place + (index + 0.5) * width - 0.4 for place, _ in found]
        above = [(row.psnr_mean or row.psnr) - floor[row.task] for _, row in found]
        gain.bar(at, above, width, label=name, color=f"C{index % 10}")
        cover.plot(at, [row.coverage or 0.0 for _, row in found], "o", color=f"C{index % 10}", markersize=5)
    gain.axhline(0, color="0.3", linewidth=0.8)
    gain.set(ylabel="PSNR of the mean of the draws above tuned TV, dB", ylim=(-12, None), title=source)
    for samples in {row.samples for row in rows if row.samples > 1}:
        exact = exact_coverage(samples)
        cover.axhspan(exact - TOLERATED, exact + TOLERATED, color="0.9", zorder=0)
        cover.text(-0.5, exact, f" exact for {samples} draws", va="center", fontsize=8, color="0.4")
    cover.set(ylabel="share of pixels inside the 90 % interval", ylim=(0, 1), title="calibration")
    for axis in (gain, cover):
        axis.set_xticks(range(len(tasks)), tasks)
        axis.grid(axis="y", alpha=0.3)
    figure.legend(*gain.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    figure.savefig(path)
