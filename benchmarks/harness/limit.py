"""What the machine could do at best: the arithmetic and the memory of the course's network at measured paces.

`python -m benchmarks.harness.limit` prints the machine's paces, what bounds each kind of layer, and how near libtorch's
products come to the pace.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import click
import torch
from torch import nn

from benchmarks.harness.report import machine
from benchmarks.peers.floor import Layer, layers, multiplications

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
#: Side of the square matrices, which the last cache holds, and numbers that are copied, which it does not.
SIDE, NUMBERS = 1440, 2**26
#: Channels below which, on both sides, a convolution is left to libtorch.
NARROW = 16
TRIES = 50
#: Multiplications that are timed at once, at least.
WORK = 1e9


@dataclass(frozen=True)
class Paces:
    """What was measured of the machine."""

    #: Multiplications and additions a second of a large matrix product, by name of the dtype.
    operations: dict[str, float]
    #: Bytes a second that a copy reads and writes.
    memory: float


def paces() -> Paces:
    """Measure the machine, best of some tries."""
    square = {name: torch.randn(SIDE, SIDE).to(dtype) for name, dtype in DTYPES.items()}
    operations = {name: 2 * SIDE**3 / _best(partial(torch.mm, a, a)) for name, a in square.items()}
    # where the processor has no products of bfloat16, they are slower than the same in float32
    operations["bf16"] = max(operations.values())
    source = torch.zeros(NUMBERS)
    target = torch.ones(NUMBERS)
    return Paces(operations, 2 * source.nbytes / _best(partial(target.copy_, source)))


def _best(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(TRIES):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _fewest(layer: Layer) -> float | None:
    """Share of the definition's multiplications that minimal filtering needs, where the engine computes so.

    F(4x4, 3x3) needs a fourth (Lavin and Gray 2016); so does a filter after doubling, and one of stride 2 needs
    25 / 36.
    """
    module = layer.module
    narrow = isinstance(module, nn.Conv2d) and max(module.weight.shape[:2]) < NARROW
    if not isinstance(module, nn.Conv2d) or module.kernel_size != (3, 3) or narrow:
        return None
    return 25 / 36 if module.stride == (2, 2) else 1 / 4


def _arithmetic(layer: Layer, precision: str, paces: Paces) -> float:
    """Seconds of one product: by minimal filtering where the engine computes so, else by its definition.

    In bfloat16 both at the pace of its products: the processor makes those of whole numbers of 16 bits, which the
    engine's convolutions are made of, as fast.
    """
    share = _fewest(layer)
    return (1 if share is None else share) * 2 * multiplications(layer) / paces.operations[precision]


def seconds(layer: Layer, precision: str, paces: Paces, *, training: bool = False) -> tuple[float, float]:
    """Return the least seconds for the arithmetic of a layer, and for its memory as if no cache held anything.

    Weights, inputs and outputs are read or written once. A training step has two more products of the same
    size: the gradients of the inputs and of the weights.
    """
    count = (3 if training else 1) * _arithmetic(layer, precision, paces)
    size = DTYPES[precision].itemsize
    moved = 4 * sum(p.numel() for p in layer.module.parameters()) + size * (layer.inputs + layer.outputs)
    return count, (3 if training else 1) * moved / paces.memory


def limits(batch: int, size: int, paces: Paces, *, training: bool = False) -> dict[str, float]:
    """Return the least seconds of a forward pass, or of a training step, by precision.

    Of each layer what takes longer, its arithmetic or its memory.
    """
    every = layers(batch, size)
    return {
        precision: sum(max(seconds(layer, precision, paces, training=training)) for layer in every)
        for precision in DTYPES
    }


def _left_to_libtorch(layer: Layer) -> list[tuple[int, int, int]]:
    """Rows, depth and columns of the matrix products in a layer, which the engine leaves to libtorch."""
    module, shape = layer.module, layer.shape
    if isinstance(module, nn.Conv2d):
        rows = shape[0] * shape[2] * shape[3]
        return [(rows, shape[1], module.out_channels)] if module.kernel_size == (1, 1) else []
    rows, depth = shape[:-1].numel(), shape[-1]
    columns = (module.out_features,) if isinstance(module, nn.Linear) else (3 * depth, depth)
    return [(rows, depth, width) for width in columns]


def _products(batch: int, size: int, paces: Paces) -> str:
    """Of the network's matrix products by libtorch: how many there are, and how near each comes to the pace."""
    every = [product for layer in layers(batch, size) for product in _left_to_libtorch(layer)]
    lines = ["| products by libtorch | number | share of the pace: fp32 | bf16 |", "|---|---|---|---|"]
    for product in sorted(set(every), reverse=True):
        rows, depth, columns = product
        shares = []
        for name, dtype in DTYPES.items():
            a, b = torch.randn(rows, depth).to(dtype), torch.randn(columns, depth).to(dtype).T
            repeats = max(1, round(WORK / (rows * depth * columns)))
            best = _best(partial(_repeat, repeats, a, b)) / repeats
            shares.append(2 * rows * depth * columns / best / paces.operations[name])
        cells = " | ".join(f"{100 * share:.0f} %" for share in shares)
        lines.append(f"| {rows} x {depth} x {columns} | {every.count(product)} | {cells} |")
    return "\n".join(lines)


def _repeat(times: int, a: torch.Tensor, b: torch.Tensor) -> None:
    for _ in range(times):
        torch.mm(a, b)


def kind(layer: Layer) -> str:
    """Say what a layer is and how large."""
    module = layer.module
    if isinstance(module, nn.Conv2d):
        side = layer.shape[2]
        outputs, inputs, kernel = module.weight.shape[:3]
        what = " after doubling" if layer.doubled else " of stride 2" if module.stride == (2, 2) else ""
        return f"{kernel} x {kernel}{what}, {inputs} to {outputs}, {side} x {side}"
    return "linear" if isinstance(module, nn.Linear) else f"attention, {layer.shape[1]} positions"


@click.command(epilog="Example: python -m benchmarks.harness.limit --batch 1")
@click.option("--batch", default=8, show_default=True, help="Images of a forward pass.")
@click.option("--size", default=64, show_default=True, help="Height and width of the images.")
def main(batch: int, size: int) -> None:
    """Print the paces of this machine, and the least time for each kind of layer of a forward pass."""
    found = paces()
    click.echo(machine("cpu"))
    for precision, pace in found.operations.items():
        click.echo(f"products in {precision}: {pace / 1e9:.0f} GFLOP a second")
    click.echo(f"memory, read and written: {found.memory / 1e9:.1f} GB a second\n")
    click.echo(
        "| layers of a forward pass | number | arithmetic, ms: fp32 | bf16 | memory, ms: fp32 | bf16 |"
    )
    click.echo("|---|---|---|---|---|---|")
    groups: dict[str, list[Layer]] = {}
    for layer in layers(batch, size):
        groups.setdefault(kind(layer), []).append(layer)
    for what, group in groups.items():
        of = {name: [seconds(layer, name, found) for layer in group] for name in DTYPES}
        cells = [1e3 * sum(pair[k] for pair in of[name]) for k in (0, 1) for name in DTYPES]
        click.echo(f"| {what} | {len(group)} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |")
    for title, training in (("forward pass", False), ("training step", True)):
        least = limits(batch, size, found, training=training)
        text = ", ".join(f"{1e3 * value:.0f} ms in {name}" for name, value in least.items())
        click.echo(f"\n{title}, batch {batch}: at least {text}")
    click.echo("\n" + _products(batch, size, found))


if __name__ == "__main__":
    main()
