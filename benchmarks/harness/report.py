"""The benchmark's table and plot."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.measure import Timing

#: Whom the others are compared with.
BASELINE = "course, eager"


def machine(device: str) -> str:
    """Name the processor or the card."""
    if device == "cuda":
        return str(torch.cuda.get_device_name())
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads"


@dataclass
class Results:
    """All that was measured, and the files that say so."""

    folder: Path
    about: dict[str, Any]
    rows: dict[str, dict[str, Timing]] = field(default_factory=dict)
    #: Peak of a training step in MiB.
    memory: dict[str, float] = field(default_factory=dict)
    #: Seconds.
    imports: dict[str, float] = field(default_factory=dict)
    scaling: str = ""
    #: The least seconds that the machine would need, of those who compute the course's network.
    limits: dict[str, dict[str, float]] = field(default_factory=dict)

    def add_row(self, work: str, timings: dict[str, Timing], limits: dict[str, float] | None = None) -> None:
        """Keep the timings of a piece of work, and write what there is."""
        self.rows[work] = timings
        if limits:
            self.limits[work] = limits
        self.write()

    def write(self) -> None:
        """Write table, plot and raw seconds."""
        (self.folder / "table.md").write_text(self.table(), encoding="utf-8")
        seconds = {work: {n: t.seconds for n, t in timings.items()} for work, timings in self.rows.items()}
        raw = {
            "about": self.about,
            "seconds": seconds,
            "limits": self.limits,
            "peak MiB": self.memory,
            "import": self.imports,
        }
        (self.folder / "seconds.json").write_text(json.dumps(raw, indent=1), encoding="utf-8")
        plot(self.rows, self.folder / "speed.png")

    def table(self) -> str:
        """Everything as Markdown: seconds, spread, and how many times faster than the course module.

        Under "limit" stands the share of the measured time that the machine would need at best.
        """
        lines = [", ".join(f"{key}: {value}" for key, value in self.about.items()), ""]
        for work, timings in self.rows.items():
            limits = self.limits.get(work)
            heads = [
                "",
                "median",
                "spread",
                "times faster than the course module",
                *(["limit"] if limits else []),
            ]
            lines += [f"### {work}", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
            for name, timing in timings.items():
                ratio = timings[BASELINE].median / timing.median
                cells = [name, f"{timing.median:.3f} s", f"{100 * timing.spread:.0f} %", f"{ratio:.2f}"]
                if limits:
                    cells.append(f"{100 * limits[name] / timing.median:.0f} %" if name in limits else "")
                lines.append(f"| {' | '.join(cells)} |")
            lines.append("")
        if self.memory:
            lines += ["### Peak memory of a training step", "", "| | MiB | of the course module's |"]
            lines += ["|---|---|---|"]
            most = self.memory[BASELINE]
            lines += [f"| {name} | {mib:.0f} | {mib / most:.2f} |" for name, mib in self.memory.items()]
            lines.append("")
        if self.imports:
            lines += ["### Import", "", "| | median |", "|---|---|"]
            lines += [f"| import {module} | {seconds:.2f} s |" for module, seconds in self.imports.items()]
            lines.append("")
        return "\n".join([*lines, self.scaling])


def plot(rows: dict[str, dict[str, Timing]], path: Path) -> None:
    """Draw a bar per contender and piece of work: how many times faster than the course module."""
    if not rows:
        return
    import matplotlib.pyplot as plt

    across = min(len(rows), 3)
    down = -(-len(rows) // across)
    fig, axes = plt.subplots(down, across, figsize=(4.6 * across, 3.6 * down), squeeze=False)
    for axis in axes.flat[len(rows) :]:
        axis.set_axis_off()
    for axis, (work, timings) in zip(axes.flat, rows.items(), strict=False):
        names = list(timings)
        ratios = [timings[BASELINE].median / timings[name].median for name in names]
        colours = ["tab:blue" if name.startswith("rust_diffusion") else "0.7" for name in names]
        bars = axis.barh(names, ratios, color=colours)
        axis.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
        axis.axvline(1, color="0.3", linewidth=0.8)
        axis.set_xlim(0, 1.15 * max(ratios))
        axis.invert_yaxis()
        axis.set_title(work, fontsize=10)
        axis.tick_params(labelsize=8)
    fig.supxlabel("times faster than the course module in eager PyTorch", fontsize=9)
    fig.tight_layout()
    fig.savefig(path, dpi=120)
    plt.close(fig)
