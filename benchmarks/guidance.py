"""What guidance asks of a frozen network: its prediction, and a gradient of it by the image. Time and peak memory.

`python -m benchmarks.guidance` prints the table; `python -m benchmarks.guidance memory WHO BATCH` one peak of memory.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import click
import rust_diffusion as rd
import torch
from torch import Tensor, nn

from benchmarks.harness.measure import alternate, peak, peak_memory, reset_peak
from benchmarks.peers import course
from benchmarks.peers.contender import COURSE

BATCHES = (1, 8)
SIZE = 64
T = 400
WHO = ("course module", "rust_diffusion fp32", "rust_diffusion bf16")


def _model(who: str) -> nn.Module:
    torch.manual_seed(0)
    make = course.DiffusionUNet if who == WHO[0] else rd.DiffusionUNet
    return make(**COURSE).eval().requires_grad_(False)


def guided(who: str, model: nn.Module, x: Tensor, t: Tensor) -> Callable[[], Tensor]:
    """Return a forward pass and a gradient to x, as a guided sampler makes them at each step."""

    def step() -> Tensor:
        start = x.detach().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled="bf16" in who):
            prediction = model(start, t)
        (gradient,) = torch.autograd.grad(prediction.float().square().sum(), start)
        return gradient

    return step


def _inputs(batch: int) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, COURSE["in_ch"], SIZE, SIZE), torch.randint(0, T, (batch,))


@click.group(invoke_without_command=True, epilog="Example: python -m benchmarks.guidance --rounds 5")
@click.option("--rounds", default=5, show_default=True, help="Timed rounds; everybody runs once in each.")
@click.pass_context
def main(context: click.Context, rounds: int) -> None:
    """Measure a forward pass and a gradient to the image, with frozen weights, against the course module."""
    if context.invoked_subcommand is not None:
        return
    print("| batch | | seconds | times faster | peak memory, MiB | share |\n|---|---|---|---|---|---|")
    for batch in BATCHES:
        x, t = _inputs(batch)
        work = {who: guided(who, _model(who), x, t) for who in WHO}
        timings = alternate(work, rounds, "cpu", f"batch {batch}")
        peaks = {who: peak_memory([__spec__.name, "memory", who, str(batch)]) for who in WHO}
        for who in WHO:
            seconds, mib = timings[who].median, peaks[who]
            faster, share = timings[WHO[0]].median / seconds, mib / peaks[WHO[0]]
            print(f"| {batch} | {who} | {seconds:.3f} | {faster:.2f} | {mib:.0f} | {share:.2f} |")


@main.command()
@click.argument("who", type=click.Choice(WHO))
@click.argument("batch", type=int)
def memory(who: str, batch: int) -> None:
    """Print the peak of memory of two such steps, in MiB above what was held before the first."""
    step = guided(who, _model(who), *_inputs(batch))
    before = reset_peak()
    step(), step()
    print(peak() - before)


if __name__ == "__main__":
    sys.exit(main())
