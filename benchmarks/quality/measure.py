"""What a trained denoiser is worth: its error on held-out images, and how far its samples are from them."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import rust_diffusion as rd
import torch
from rust_diffusion.sampling.draw import whole
from torch import Tensor

from benchmarks.quality.data import Images

#: Noise levels, as shares of T, and the images that the error is a mean over.
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
_IMAGES = 128
_SEED = 77


@dataclass
class Trained:
    """A denoiser, whatever it was trained by."""

    model: Callable[[Tensor, Tensor], Tensor]
    #: What it predicts.
    objective: str
    betas: Tensor
    seconds: float
    updates: int
    #: Images per second in training.
    speed: float
    parameters: int
    sampling: dict[str, Any]
    #: Where it computes.
    device: str


def noise_errors(trained: Trained, held_out: Tensor) -> list[float]:
    """Mean squared error of eps at each of `LEVELS`: what the network says is turned into eps."""
    alpha_bars = torch.cumprod(1 - trained.betas, 0).to(trained.device)
    generator = torch.Generator().manual_seed(_SEED)
    x0 = held_out[:_IMAGES].to(trained.device)
    to_eps = rd.as_eps(trained.model, alpha_bars, objective=trained.objective)
    errors = []
    for level in LEVELS:
        step = round(level * (len(alpha_bars) - 1))
        t = torch.full((len(x0),), step, device=trained.device)
        eps = torch.randn(x0.shape, generator=generator).to(trained.device)
        x_t = rd.q_sample(x0, t, eps, alpha_bars)
        with torch.no_grad():
            said = torch.cat([to_eps(x, s) for x, s in zip(x_t.split(32), t.split(32), strict=True)])
        errors.append(float((said - eps).square().mean()))
    return errors


def draw(trained: Trained, count: int, size: int, seed: int) -> tuple[Tensor, int, float]:
    """(samples, network calls for each, seconds)."""
    sampler = getattr(rd, f"{trained.sampling['sampler']}_sample")
    # with another sampler than the recipe's come other options, and DDPM has no number of steps
    takes = inspect.signature(sampler).parameters
    options = {
        name: value for name, value in {**trained.sampling, **whole(trained.betas)}.items() if name in takes
    }
    calls = 0

    def counted(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return trained.model(x, t)

    def sample(model: Any, number: int) -> Tensor:
        images: Tensor = sampler(
            model,
            number,
            (1, size, size),
            device=trained.device,
            seed=seed,
            progress=False,
            objective=trained.objective,
            **options,
        )
        return images.cpu()

    sample(counted, 1)
    start = time.perf_counter()
    images = sample(trained.model, count)
    return images, calls, time.perf_counter() - start


def measure(trained: Trained, images: Images, samples: int, seed: int) -> dict[str, Any]:
    """All numbers of a row."""
    drawn, calls, seconds = draw(trained, samples, images.train.shape[-1], seed)
    against = rd.compare_sets(drawn, images.held_out, names=("samples", "held-out images"))
    copies = rd.compare_sets(drawn, images.train, names=("samples", "training images"))
    return {
        "seconds": trained.seconds,
        "updates": trained.updates,
        "images_per_second": trained.speed,
        "parameters": trained.parameters,
        "noise_errors": noise_errors(trained, images.held_out),
        "mmd2": against.raw.mmd2,
        "p": against.raw.p_value,
        "by_chance": against.raw.by_chance,
        "patch_mmd2": against.patches.mmd2,
        "patch_p": against.patches.p_value,
        "patch_by_chance": against.patches.by_chance,
        "copied": copies.copied,
        "nearest": float(copies.nearest.median()),
        "nearest_within": float(copies.nearest_within_b.median()),
        "network_calls": calls,
        "sampling_seconds": seconds,
        "samples": drawn,
    }
