"""The benchmark's table and plot."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch

from rust_diffusion.bench.measure import Timing

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


def table(
    about: dict[str, Any],
    rows: dict[str, dict[str, Timing]],
    memory: dict[str, float],
    imports: dict[str, Timing],
) -> str:
    """Write everything as Markdown: seconds, spread, and how many times faster than the course module."""
    lines = [", ".join(f"{key}: {value}" for key, value in about.items()), ""]
    for work, timings in rows.items():
        lines += [
            f"### {work}",
            "",
            "| | median | spread | times faster than the course module |",
            "|---|---|---|---|",
        ]
        for name, timing in timings.items():
            ratio = timings[BASELINE].median / timing.median
            lines.append(f"| {name} | {timing.median:.3f} s | {100 * timing.spread:.0f} % | {ratio:.2f} |")
        lines.append("")
    if memory:
        lines += [
            "### Peak memory of a training step",
            "",
            "| | MiB | of the course module's |",
            "|---|---|---|",
        ]
        lines += [f"| {name} | {mib:.0f} | {mib / memory[BASELINE]:.2f} |" for name, mib in memory.items()]
        lines.append("")
    if imports:
        lines += ["### Import", "", "| | median |", "|---|---|"]
        lines += [f"| import {module} | {timing.median:.2f} s |" for module, timing in imports.items()]
        lines.append("")
    return "\n".join(lines)


def plot(rows: dict[str, dict[str, Timing]], path: Path) -> None:
    """Draw a bar per contender and piece of work: how many times faster than the course module."""
    if not rows:
        return
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, len(rows), figsize=(4.6 * len(rows), 3.6), squeeze=False)
    for axis, (work, timings) in zip(axes[0], rows.items(), strict=True):
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
