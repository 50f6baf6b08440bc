"""What all samplers do once they have their table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rust_diffusion import _native
from rust_diffusion.sampling.arguments import Arguments
from rust_diffusion.sampling.progress import Progress
from rust_diffusion.support import guards
from rust_diffusion.support.warning import warn


def draw(
    name: str,
    table: _native.Table,
    run: Arguments,
    engine: Callable[..., Tensor] = _native.sample,
    *rest: Any,
) -> Tensor:
    """Follow a table from where `run` starts; `engine` takes the model, the start, the table, settings and `rest`."""
    run.look_at(table)
    bar = Progress(name, table.steps, run.progress, run.callback)
    with guards.enough_memory(run.advice), run.modes(), bar:
        settings = {
            "objective": run.objective,
            "clip": run.clip,
            "noise": run.noise,
            "callback": bar.callback,
            "show": bar.show,
        }
        return engine(run.model, run.start(), table, settings, *rest)


def warned_of_nan(images: Tensor) -> Tensor:
    """The images, with a warning if some are no images at all."""
    bad = int((~torch.isfinite(images).flatten(1).all(dim=1)).sum())
    if bad:
        warn(
            f"{bad} of {len(images)} samples hold NaN or infinity: look at what the model returns "
            f"(torch.isfinite of its weights and output) and at the schedule",
            RuntimeWarning,
        )
    return images


def images_from_noise(
    name: str,
    table: _native.Table,
    model: Any,
    num_samples: Any,
    image_shape: Any,
    device: Any,
    keywords: Any,
) -> Tensor:
    """Images along a table, from the arguments that every sampler has."""
    run = Arguments(model, num_samples, image_shape, device, keywords, f"{name}_sample")
    return warned_of_nan(draw(name.upper(), table, run))
