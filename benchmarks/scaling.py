"""How time grows: a forward pass against batch, image size and width, beside the growth of its operations."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import rust_diffusion as rd
import torch

from benchmarks.harness.measure import alternate
from benchmarks.peers import course
from benchmarks.peers.contender import COURSE
from benchmarks.peers.floor import flops

OURS, THEIRS = "rust_diffusion fp32", "course, eager"
#: The course's attention keeps a matrix of all pairs of positions: beyond this size it needs many GB.
LARGEST_FOR_THE_COURSE = 128


class Point(NamedTuple):
    """One setting; `value` is the number that its series varies."""

    value: int
    batch: int
    size: int
    base_ch: int


SERIES: dict[str, list[Point]] = {
    "batch": [Point(n, n, 64, COURSE["base_ch"]) for n in (1, 2, 4, 8, 16, 32, 64)],
    "image size": [Point(n, 1, n, COURSE["base_ch"]) for n in (32, 64, 128, 256)],
    "base_ch": [Point(n, 4, 64, n) for n in (16, 32, 64, 96, 128)],
}


class Measured(NamedTuple):
    """Milliseconds per image of whoever ran, and GFLOP per image."""

    point: Point
    milliseconds: dict[str, float]
    gflop: float


def measure(rounds: int, device: str) -> dict[str, list[Measured]]:
    """Run every point of every series."""
    return {name: [_at(point, rounds, device) for point in points] for name, points in SERIES.items()}


def _at(point: Point, rounds: int, device: str) -> Measured:
    config: dict[str, Any] = {**COURSE, "base_ch": point.base_ch}
    x = torch.randn(point.batch, COURSE["in_ch"], point.size, point.size, device=device)
    t = torch.zeros(point.batch, dtype=torch.long, device=device)
    networks: dict[str, torch.nn.Module] = {OURS: rd.DiffusionUNet(**config).to(device).eval()}
    if point.size <= LARGEST_FOR_THE_COURSE:
        networks[THEIRS] = course.DiffusionUNet(**config).to(device).eval()
    with torch.no_grad():
        work = {name: partial(network, x, t) for name, network in networks.items()}
        timings = alternate(work, rounds, device, "scaling")
    milliseconds = {name: 1000 * timing.median / point.batch for name, timing in timings.items()}
    return Measured(point, milliseconds, flops(1, point.size, base_ch=point.base_ch) / 1e9)


def table(series: dict[str, list[Measured]]) -> str:
    """Write milliseconds and GFLOP per image, and their ratio."""
    lines = ["### Scaling of a forward pass, per image", ""]
    lines += [f"| | GFLOP | {OURS} | ms per GFLOP | {THEIRS} |", "|---|---|---|---|---|"]
    for name, measured in series.items():
        for point, milliseconds, gflop in measured:
            ours, theirs = milliseconds[OURS], milliseconds.get(THEIRS)
            cells = [
                f"{name} {point.value}",
                f"{gflop:.1f}",
                f"{ours:.1f} ms",
                f"{ours / gflop:.2f}",
                "not run" if theirs is None else f"{theirs:.1f} ms",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def plot(series: dict[str, list[Measured]], path: Path) -> None:
    """Draw a panel per series; the dashed line grows as the operations do."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, len(series), figsize=(4.4 * len(series), 3.6))
    for axis, (name, measured) in zip(axes, series.items(), strict=True):
        for who, colour in ((OURS, "tab:blue"), (THEIRS, "0.5")):
            shown = [m for m in measured if who in m.milliseconds]
            axis.loglog(
                [m.point.value for m in shown],
                [m.milliseconds[who] for m in shown],
                "o-",
                color=colour,
                label=who,
            )
        first = measured[0]
        line = [first.milliseconds[OURS] * m.gflop / first.gflop for m in measured]
        axis.loglog(
            [m.point.value for m in measured], line, "--", color="tab:blue", alpha=0.5, label="as FLOP"
        )
        values = [m.point.value for m in measured]
        axis.set_xticks(values, [str(v) for v in values])
        axis.minorticks_off()
        axis.set_xlabel(name)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("milliseconds per image")
    axes[0].legend(frameon=False, fontsize=8)
    fig.tight_layout()
    fig.savefig(path, dpi=120)
    plt.close(fig)
