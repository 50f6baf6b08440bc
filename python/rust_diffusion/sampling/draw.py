"""Images in batches, drawn with what the model carries: `DiffusionUNet.sample`."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from rust_diffusion.model import verbs
from rust_diffusion.model.card import schedule_of, size_of
from rust_diffusion.model.unet import DiffusionUNet
from rust_diffusion.sampling.samplers import ddim_sample, ddpm_sample
from rust_diffusion.support import checks

SAMPLERS = ("ddim", "ddpm")

_DEFAULT_STEPS = inspect.signature(ddim_sample).parameters["sample_steps"].default


@verbs.lend
def sample(
    model: DiffusionUNet,
    num_samples: int,
    sampler: str = SAMPLERS[0],
    *,
    seed: int | None = None,
    batch_size: int | None = None,
    image_size: Any = None,
    **options: Any,
) -> Tensor:
    """Draw images in batches with the schedule the model carries: see `DiffusionUNet.sample`."""
    count = checks.integer("num_samples", num_samples, 1)
    checks.choice("sampler", sampler, SAMPLERS)
    step = count if batch_size is None else checks.integer("batch_size", batch_size, 1)
    first = None if seed is None else checks.integer("seed", seed, -(2**63), 2**63 - count)
    betas = schedule_of(model)
    if sampler == "ddim" and "timesteps" not in options:
        options.setdefault("sample_steps", min(_DEFAULT_STEPS, len(betas)))
    alphas = 1 - betas
    alpha_bars = torch.cumprod(alphas, dim=0)
    shape = (model.config["in_ch"], *size_of(model, image_size))
    device = next(model.parameters()).device

    def draw(start: int, size: int) -> Tensor:
        # Image k has the stream of seed + k, whichever batch it falls into.
        seeds = None if first is None else range(first + start, first + start + size)
        if sampler == "ddpm":
            return ddpm_sample(model, size, shape, betas, alphas, alpha_bars, device, seed=seeds, **options)
        return ddim_sample(model, size, shape, alpha_bars, device, seed=seeds, **options)

    return torch.cat([draw(start, min(step, count - start)) for start in range(0, count, step)])
