"""The course's samplers. Each makes its table of numbers; the loop that follows it is the engine's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from rust_diffusion import _native
from rust_diffusion.sampling.arguments import timesteps_of
from rust_diffusion.sampling.run import images_from_noise
from rust_diffusion.sampling.sampler import Keywords, sampler
from rust_diffusion.support import checks
from rust_diffusion.support.warning import warn


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
    {drawing}
    {steps}
    eta : float
        0 is deterministic (no noise is drawn after the start), 1 has the variance of DDPM. At least 0; above 1 the
        images come out noisy, and a warning says so.
    {grid}
    {keywords}

    {images}

    {raises}
    """
    eta = checks.number("eta", eta, 0.0)
    if eta > 1.0:
        warn(
            f"eta={eta:g} is above 1, the variance of DDPM: steps add more noise than the levels they lead to can "
            f"hold, and images come out noisy"
        )
    grid = timesteps_of(alpha_bars, sample_steps, timesteps, spacing)
    table = _native.Table.ddim(alpha_bars, grid, eta)
    return images_from_noise("ddim", table, model, num_samples, image_shape, device, keywords)


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
        Anything that maps (x_t, t) to a prediction of x_t's shape; t, of shape (B,), is int64, or float32 for "flow".
        Its mode is left as it is.
    num_samples : int
        How many images.
    image_shape : sequence of int
        (C, H, W).
    betas, alphas, alpha_bars : Tensor
        The schedule, each of shape (T,).
    device : str or torch.device
        Where to sample; the model must be there.
    {keywords}

    {images}

    {raises}
    """
    checks.alpha_bars("alpha_bars", alpha_bars)
    table = _native.Table.ddpm(betas, alphas, alpha_bars)
    return images_from_noise("ddpm", table, model, num_samples, image_shape, device, keywords)
