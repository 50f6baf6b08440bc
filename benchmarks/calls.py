"""What Python costs: a forward pass of a tiny network beside the engine's own, and calls of Python while sampling.

`python -m benchmarks.calls` prints both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import click
import rust_diffusion as rd
import torch
from rust_diffusion import _native

#: So small that what surrounds the network shows.
TINY: dict[str, Any] = {"base_ch": 16, "channel_mults": (1,), "attn_levels": ()}
SIZE = 8
T = 400
STEPS = 50


def _seconds(run: Callable[[], object], calls: int) -> float:
    begin = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - begin) / calls


def forward(rounds: int, calls: int = 50) -> tuple[float, float]:
    """Median seconds of `model(x, t)` and of the engine's pass on the same weights, measured in turn."""
    model = rd.DiffusionUNet(**TINY).eval().requires_grad_(False)
    x, t = torch.randn(1, 1, SIZE, SIZE), torch.zeros(1, dtype=torch.long)
    held = model._handed_over(list(model.parameters()))
    ours: list[float] = []
    engine: list[float] = []
    for _ in range(rounds + 1):
        ours.append(_seconds(lambda: model(x, t), calls))
        engine.append(_seconds(lambda: held.run(x, t, 0.0, (False, False), False), calls))
    return statistics.median(ours[1:]), statistics.median(engine[1:])


def sampling() -> tuple[int, float]:
    """Calls from the engine into Python during DDIM-50 without bar and callback, and its seconds."""
    model = rd.DiffusionUNet(**{**TINY, "base_ch": 32}).eval()
    alpha_bars = torch.cumprod(1 - rd.cosine_beta_schedule(T), 0)
    before, begin = _native.python_calls(), time.perf_counter()
    rd.ddim_sample(model, 8, (1, 32, 32), alpha_bars, "cpu", STEPS, progress=False)
    return _native.python_calls() - before, time.perf_counter() - begin


@click.command(epilog="Example: python -m benchmarks.calls --rounds 20")
@click.option("--rounds", default=40, show_default=True, help="Timed rounds of 50 calls each.")
def main(rounds: int) -> None:
    """Measure what Python adds to a pass of the engine, and how often the engine calls Python."""
    ours, engine = forward(rounds)
    print(
        f"model(x, t): {ours * 1e6:.0f} µs, the engine's own pass {engine * 1e6:.0f} µs, ratio {ours / engine:.2f}"
    )
    calls, seconds = sampling()
    print(f"DDIM-{STEPS} without bar and callback: {calls} calls of Python in {seconds:.2f} s")


if __name__ == "__main__":
    main()
