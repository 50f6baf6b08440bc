"""Images in batches, drawn with what the model carries: `Network.sample`."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from rust_diffusion.model import verbs
from rust_diffusion.model.card import schedule_of, size_of
from rust_diffusion.model.network import Network, check_fits
from rust_diffusion.sampling.sampler import SAMPLERS, usual_steps
from rust_diffusion.support import checks

if Network.sample.__doc__ is not None:  # python -OO drops docstrings
    choices = ", ".join(f'"{name}"' for name in SAMPLERS)
    Network.sample.__doc__ = Network.sample.__doc__.replace("{samplers}", f"{{{choices}}}")

#: What a sampler that follows a schedule takes of it.
_OF_SCHEDULE = ("betas", "alphas", "alpha_bars")
#: What samplers are given of the model, and how to give another.
_OF_MODEL = {
    "device": "move the model, model.to(device)",
    "image_shape": "give image_size=",
    **dict.fromkeys(_OF_SCHEDULE, "set model.betas"),
}


@verbs.lend
def sample(
    model: Network,
    num_samples: int,
    sampler: str,
    *,
    seed: int | None = None,
    batch_size: int | None = None,
    image_size: Any = None,
    **options: Any,
) -> Tensor:
    """Draw images in batches with the schedule the model carries: see `Network.sample`."""
    count = checks.integer("num_samples", num_samples, 1)
    function = SAMPLERS[checks.choice("sampler", sampler, tuple(SAMPLERS))]
    for name, how in _OF_MODEL.items():
        if name in options:
            raise TypeError(f"sample() takes no {name}, but the model's own; for another one, {how}")
    step = count if batch_size is None else checks.integer("batch_size", batch_size, 1)
    first = None if seed is None else checks.integer("seed", seed, -(2**63), 2**63 - count)
    schedule = _schedule(function, model, options)
    shape = (model.in_channels, *size_of(model, image_size))
    if image_size is not None:
        check_fits(model, shape, f"image_size={image_size!r} makes images")
    device = next(model.parameters()).device

    def draw(start: int, size: int) -> Tensor:
        # Image k has the stream of seed + k, whichever batch it falls into.
        seeds = None if first is None else range(first + start, first + start + size)
        return function(
            model, num_samples=size, image_shape=shape, device=device, seed=seeds, **schedule, **options
        )

    return torch.cat([draw(start, min(step, count - start)) for start in range(0, count, step)])


def whole(betas: Tensor) -> dict[str, Tensor]:
    """All that samplers may take of a schedule, by the names of their arguments."""
    alphas = 1 - betas
    return dict(zip(_OF_SCHEDULE, (betas, alphas, torch.cumprod(alphas, dim=0)), strict=True))


def _schedule(function: Any, model: Network, options: dict[str, Any]) -> dict[str, Any]:
    """Return what `function` takes of the schedule, and its usual number of steps where the schedule has as many."""
    takes = inspect.signature(function).parameters
    if not takes.keys() & _OF_SCHEDULE:
        return {}  # straight paths have none, and a model for them need not know one
    betas = schedule_of(model)
    schedule: dict[str, Any] = {name: values for name, values in whole(betas).items() if name in takes}
    if "sample_steps" in takes and not {"sample_steps", "timesteps"} & options.keys():
        schedule["sample_steps"] = min(usual_steps(function), len(betas))
    return schedule
