"""What each operation of the engine takes in a forward pass, beside what its layers would need at best.

`python -m benchmarks.harness.operations`; seconds.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import click
import rust_diffusion as rd
import torch
from torch import nn

from benchmarks.harness.limit import DTYPES, kind, paces, seconds
from benchmarks.harness.report import machine
from benchmarks.peers.contender import COURSE
from benchmarks.peers.floor import Layer, layers

#: Layers of an operation, but for a residual block's 1 x 1 convolution, which not all have.
LAYERS = {
    "time embedding": 2,
    "convolution": 1,
    "residual block": 3,
    "attention": 1,
    "doubling": 1,
    "head": 1,
}


def operations(every: list[Layer], kinds: list[str]) -> Iterator[list[Layer]]:
    """Part the layers of a forward pass by the operations that hold them."""
    left = list(every)
    for name in kinds:
        count = LAYERS[name]
        last = left[count] if count < len(left) else None
        if name == "residual block" and last is not None and _is_skip(last):
            count += 1
        yield left[:count]
        del left[:count]
    if left:
        raise RuntimeError(f"{len(left)} layers belong to no operation")


def _is_skip(layer: Layer) -> bool:
    return isinstance(layer.module, nn.Conv2d) and layer.module.kernel_size == (1, 1)


def _times(batch: int, size: int, rounds: int, *, bf16: bool) -> list[tuple[str, float]]:
    """Median seconds of each operation."""
    model = rd.DiffusionUNet(**COURSE).eval().requires_grad_(False)
    held = model._handed_over(list(model.parameters()))
    x, t = torch.randn(batch, COURSE["in_ch"], size, size), torch.zeros(batch, dtype=torch.long)
    measured = [held.times(x, t, bf16) for _ in range(rounds + 1)][1:]
    return [(same[0][0], statistics.median(took for _, took in same)) for same in zip(*measured, strict=True)]


@click.command(epilog="Example: python -m benchmarks.harness.operations --batch 1")
@click.option("--batch", default=8, show_default=True, help="Images of a forward pass.")
@click.option("--size", default=64, show_default=True, help="Height and width of the images.")
@click.option("--rounds", default=9, show_default=True, help="Timed passes.")
def main(batch: int, size: int, rounds: int) -> None:
    """Print what the operations of the course's network take, and which share of it they would need at best."""
    found = paces()
    click.echo(machine("cpu"))
    click.echo("| operation | number | fp32, ms | at best | bf16, ms | at best |\n|---|---|---|---|---|---|")
    took = {name: _times(batch, size, rounds, bf16=name == "bf16") for name in DTYPES}
    groups: dict[str, list[list[float]]] = {}
    parts = operations(layers(batch, size), [name for name, _ in took["fp32"]])
    for part, fp32, bf16 in zip(parts, took["fp32"], took["bf16"], strict=True):
        best = [sum(max(seconds(layer, name, found)) for layer in part) for name in DTYPES]
        row = [fp32[1], best[0], bf16[1], best[1]]
        groups.setdefault(f"{fp32[0]}: {kind(part[0])}", []).append(row)
    for what, rows in groups.items():
        _print(what, rows)
    _print("all", [row for rows in groups.values() for row in rows])


def _print(what: str, rows: list[list[float]]) -> None:
    fp32, best_fp32, bf16, best_bf16 = (1e3 * sum(column) for column in zip(*rows, strict=True))
    shares = f"{fp32:.2f} | {100 * best_fp32 / fp32:.0f} % | {bf16:.2f} | {100 * best_bf16 / bf16:.0f} %"
    click.echo(f"| {what} | {len(rows)} | {shares} |")


if __name__ == "__main__":
    main()
