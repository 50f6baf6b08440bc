"""The samplers that people call. Each makes its table of numbers; the loop that follows it is the engine's."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from rust_diffusion import _native
from rust_diffusion.sampling.arguments import Arguments, timesteps_of
from rust_diffusion.sampling.progress import Progress
from rust_diffusion.sampling.sampler import SAMPLERS, Keywords, completed, sampler
from rust_diffusion.support import checks, guards

__all__ = ["SAMPLERS", "ddim_sample", "ddpm_sample", "draw"]


@sampler
def ddim_sample(
    model: Any,
    num_samples: int,
    image_shape: Sequence[int],
    alpha_bars: Tensor,
    device: str | torch.device,
    sample_steps: int = 50,
    eta: float = 0.0,
    *,
    timesteps: Sequence[int] | None = None,
    spacing: str = _native.SPACINGS[0],
    **keywords: Unpack[Keywords],
) -> Tensor:
    """Draw images with DDIM (Song, Meng and Ermon 2021, equation 12), `sample_steps` model calls in all.

    Parameters
    ----------
    model : DiffusionUNet, EMA or callable
        Called as ``model(x_t, t)`` with t of shape (B,), int64; gives eps, or what `objective` says. A
        DiffusionUNet runs without Python between the steps.
    num_samples : int
        How many images.
    image_shape : sequence of int
        (C, H, W).
    alpha_bars : Tensor
        The schedule, shape (T,).
    device : str or torch.device
        Where to sample; the model must be there.
    sample_steps : int
        Between 1 and T.
    eta : float
        0 is deterministic (no noise is drawn after the start), 1 has the variance of DDPM. At least 0.
    timesteps : sequence of int, optional
        A strictly decreasing list out of 0..T-1 to use instead of `sample_steps`.
    spacing : {"course", "leading", "linspace", "trailing"}
        How `sample_steps` timesteps are spread: "course" truncates linspace(T-1, 0, n), the others are as diffusers
        names them.
    {keywords}

    Returns
    -------
    Tensor
        Images in [-1, 1], float32, (num_samples, C, H, W).

    Raises
    ------
    ValueError, TypeError
        If an argument cannot be used; the message names it.
    MemoryError
        If the images do not fit; the message says how many to try.
    """
    eta = checks.number("eta", eta, 0.0)
    grid = timesteps_of(alpha_bars, sample_steps, timesteps, spacing)
    table = _native.Table.ddim(alpha_bars, grid, eta)
    return draw("ddim", table, model, num_samples, image_shape, device, keywords)


@sampler
def ddpm_sample(
    model: Any,
    num_samples: int,
    image_shape: Sequence[int],
    betas: Tensor,
    alphas: Tensor,
    alpha_bars: Tensor,
    device: str | torch.device,
    **keywords: Unpack[Keywords],
) -> Tensor:
    """Draw images by ancestral sampling (Ho et al. 2020, algorithm 2), one model call per timestep.

    Parameters
    ----------
    model : DiffusionUNet, EMA or callable
        Anything that maps (x_t, t) to a prediction of x_t's shape; t is int64 of shape (B,). Its mode is left as it is.
    num_samples : int
        How many images.
    image_shape : sequence of int
        (C, H, W).
    betas, alphas, alpha_bars : Tensor
        The schedule, each of shape (T,).
    device : str or torch.device
        Where to sample; the model must be there.
    {keywords}

    Returns
    -------
    Tensor
        Images in [-1, 1], float32, (num_samples, C, H, W).

    Raises
    ------
    ValueError, TypeError
        If an argument cannot be used; the message names it.
    MemoryError
        If the images do not fit; the message says how many to try.
    """
    table = _native.Table.ddpm(betas, alphas, alpha_bars)
    return draw("ddpm", table, model, num_samples, image_shape, device, keywords)


def draw(
    name: str,
    table: _native.Table,
    model: Any,
    num_samples: Any,
    image_shape: Any,
    device: Any,
    keywords: Keywords,
) -> Tensor:
    """Images from noise along a table: what all samplers do once they have theirs."""
    run = Arguments(model, num_samples, image_shape, device, completed(f"{name}_sample", keywords))
    bar = Progress(name.upper(), table.steps, run.progress, run.callback)
    with guards.enough_memory(run.advice), run.modes(), bar:
        settings = {
            "objective": run.objective,
            "clip": run.clip,
            "noise": run.noise,
            "callback": bar.callback,
            "show": bar.show,
        }
        images = _native.sample(run.model, run.start(), table, settings)
    return _warned_of_nan(images)


def _warned_of_nan(images: Tensor) -> Tensor:
    """The images, with a warning if some are no images at all."""
    bad = int((~torch.isfinite(images).flatten(1).all(dim=1)).sum())
    if bad:
        warnings.warn(
            f"{bad} of {len(images)} samples hold NaN or infinity: look at what the model returns "
            f"(torch.isfinite of its weights and output) and at the schedule",
            RuntimeWarning,
            stacklevel=4,
        )
    return images
