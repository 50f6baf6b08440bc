"""The network of google/ddpm-cifar10-32 in the engine and in diffusers: time and memory. Weights are random.

`python -m benchmarks.unet2d` prints the table; `... memory WHO` one peak of memory, `... large` what the 256 x 256
network of google/ddpm-celebahq-256 takes.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import Any

import click
import rust_diffusion as rd
import torch
from diffusers import UNet2DModel

from benchmarks.harness import report
from benchmarks.harness.measure import Timing, alternate, peak, peak_memory, reset_peak
from benchmarks.peers.contender import Contender
from benchmarks.peers.contenders import Unwrapped
from benchmarks.peers.ours import Ours
from benchmarks.peers.plain import Plain

CIFAR10: dict[str, Any] = {
    "sample_size": 32,
    "block_out_channels": (128, 256, 256, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
CELEBAHQ: dict[str, Any] = {
    **CIFAR10,
    "sample_size": 256,
    "block_out_channels": (128, 128, 256, 256, 512, 512),
    "down_block_types": (*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4),
}
BASELINE = "diffusers, eager"
WHO = (BASELINE, "diffusers, eager, bf16", "rust_diffusion fp32", "rust_diffusion bf16")
BATCH, SIZE, T = 8, 32, 1000


class Engine(Ours):
    """A network of diffusers' family in this package."""

    @staticmethod
    def network(**config: Any) -> Any:
        """Make the network that runs."""
        return rd.UNet2DModel(**config)


def contender(who: str) -> Contender:
    """Return one of `WHO`."""
    precision = "bf16" if "bf16" in who else "fp32"
    if who.startswith("rust_diffusion"):
        return Engine("cpu", precision, SIZE, **CIFAR10)
    torch.manual_seed(0)
    return Plain(who, Unwrapped(UNet2DModel(**CIFAR10)), "cpu", SIZE, bf16=precision == "bf16")


def images() -> torch.Tensor:
    """A batch of noise in the range of images."""
    return torch.randn(BATCH, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)


@click.group(invoke_without_command=True, epilog="Example: python -m benchmarks.unet2d --rounds 5")
@click.option("--rounds", default=3, show_default=True, help="Timed rounds; everybody runs once in each.")
@click.pass_context
def main(context: click.Context, rounds: int) -> None:
    """Measure a forward pass, a training step and its memory, of the cifar10 network at batch 8."""
    if context.invoked_subcommand is not None:
        return
    print(f"{report.machine('cpu')}, torch {torch.__version__}, {rounds} rounds, batch {BATCH}\n")
    field = {who: contender(who) for who in WHO}
    x, t = images(), torch.randint(0, T, (BATCH,), generator=torch.Generator().manual_seed(1))
    passes = {who: partial(one.predict, x, t) for who, one in field.items()}
    _print("forward", alternate(passes, rounds, "cpu", "forward"))
    _print("training step", _steps(field, x, rounds))
    del field
    peaks = {who: peak_memory([__spec__.name, "memory", who]) for who in WHO}
    print("| peak memory of a training step | MiB | share |\n|---|---|---|")
    for who, mib in peaks.items():
        print(f"| {who} | {mib:.0f} | {mib / peaks[BASELINE]:.2f} |")


def _steps(field: dict[str, Contender], x: torch.Tensor, rounds: int) -> dict[str, Timing]:
    """Two steps each in turn, of which the first is not counted; nor is the first round."""
    timings, betas = {who: Timing() for who in field}, rd.linear_beta_schedule(T)
    for index in range(rounds + 1):
        for who, one in field.items():
            seconds = one.train(x, betas, 2)
            if index > 0:
                timings[who].seconds.append(seconds[-1])
    return timings


def _print(work: str, timings: dict[str, Timing]) -> None:
    print(f"| {work} | seconds | spread | times faster |\n|---|---|---|---|")
    for who, timing in timings.items():
        faster = timings[BASELINE].median / timing.median
        print(f"| {who} | {timing.median:.3f} | {100 * timing.spread:.0f} % | {faster:.2f} |")
    print(flush=True)


@main.command()
@click.argument("who", type=click.Choice(WHO))
def memory(who: str) -> None:
    """Print the peak of memory of two training steps, in MiB above what was held before the first."""
    one, x = contender(who), images()
    before = reset_peak()
    one.train(x, rd.linear_beta_schedule(T), 2)
    print(peak() - before)


@main.command()
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(["fp32", "bf16"]))
def large(precision: str) -> None:
    """Time a pass of the 256 x 256 network of celebahq, batch 1, and print the process's peak of memory."""
    model = rd.UNet2DModel(**CELEBAHQ).eval()
    x, t = torch.randn(1, 3, 256, 256), torch.tensor([500])
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            model(x, t)
        seconds.append(time.perf_counter() - start)
    print(f"{report.machine('cpu')}: celebahq, batch 1, {precision}")
    print(
        f"first pass {seconds[0]:.2f} s, then {min(seconds[1:]):.2f} s; at most {peak() / 1024:.2f} GiB in the process"
    )


if __name__ == "__main__":
    sys.exit(main())
