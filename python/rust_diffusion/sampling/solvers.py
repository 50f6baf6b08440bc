"""Samplers in fewer steps: solvers of the probability flow, and of its stochastic relatives."""

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


@sampler
def dpmpp_sample(
    model: Any,
    num_samples: int,
    image_shape: Sequence[int],
    alpha_bars: Tensor,
    device: str | torch.device,
    sample_steps: int = 20,
    order: int = 2,
    solver: str = _native.SOLVERS[0],
    sde: bool = False,
    lower_order_final: bool = True,
    *,
    timesteps: Sequence[int] | None = None,
    spacing: str = _native.SPACINGS[0],
    **keywords: Unpack[Keywords],
) -> Tensor:
    """Draw images with DPM-Solver++ as a multistep method (Lu et al. 2022), one model call a step.

    Parameters
    ----------
    {drawing}
    {steps}
    order : {1, 2, 3}
        How many of the latest answers a step is made of. 2 is the authors' 2M.
    solver : {"midpoint", "heun"}
        How the second order takes the slope.
    sde : bool
        Solve the stochastic equation instead of the probability flow: noise is drawn in each step but the last.
    lower_order_final : bool
        Let runs of fewer than 15 steps end in lower orders.
    {grid}
    {keywords}

    {images}

    {raises}
    """
    order = checks.integer("order", order, 1, 3)
    solver = checks.choice("solver", solver, _native.SOLVERS)
    sde, lower = checks.flag("sde", sde), checks.flag("lower_order_final", lower_order_final)
    grid = timesteps_of(alpha_bars, sample_steps, timesteps, spacing)
    table = _native.Table.dpmpp(alpha_bars, grid, order, solver, sde, lower)
    return images_from_noise("dpmpp", table, model, num_samples, image_shape, device, keywords)


@sampler
def unipc_sample(
    model: Any,
    num_samples: int,
    image_shape: Sequence[int],
    alpha_bars: Tensor,
    device: str | torch.device,
    sample_steps: int = 20,
    order: int = 2,
    *,
    timesteps: Sequence[int] | None = None,
    spacing: str = _native.SPACINGS[0],
    **keywords: Unpack[Keywords],
) -> Tensor:
    """Draw images with UniPC and B(h) = exp(h) - 1 (Zhao et al. 2023), one model call a step.

    Parameters
    ----------
    {drawing}
    {steps}
    order : {1, 2, 3}
        Of the predictor; the corrector gains one more. The last steps are of lower order.
    {grid}
    {keywords}

    {images}

    {raises}
    """
    order = checks.integer("order", order, 1, 3)
    grid = timesteps_of(alpha_bars, sample_steps, timesteps, spacing)
    table = _native.Table.unipc(alpha_bars, grid, order)
    return images_from_noise("unipc", table, model, num_samples, image_shape, device, keywords)


@sampler
def heun_sample(
    model: Any,
    num_samples: int,
    image_shape: Sequence[int],
    alpha_bars: Tensor,
    device: str | torch.device,
    sample_steps: int = 20,
    churn: float = 0.0,
    *,
    timesteps: Sequence[int] | None = None,
    spacing: str = _native.SPACINGS[0],
    **keywords: Unpack[Keywords],
) -> Tensor:
    """Draw images by Heun's method with churn (Karras et al. 2022, algorithms 1 and 2), 2 `sample_steps` - 1 calls.

    Parameters
    ----------
    {drawing}
    {steps}
    churn : float
        Their S_churn, at least 0: before each step, noise is raised by the factor 1 + min(churn / steps, sqrt(2) - 1),
        to the nearest of the levels of the schedule. 0 draws no noise.
    {grid}
    {keywords}

    {images}

    {raises}
    """
    churn = checks.number("churn", churn, 0.0)
    grid = timesteps_of(alpha_bars, sample_steps, timesteps, spacing)
    table = _native.Table.heun(alpha_bars, grid, churn)
    return images_from_noise("heun", table, model, num_samples, image_shape, device, keywords)


@sampler
def euler_sample(
    model: Any,
    num_samples: int,
    image_shape: Sequence[int],
    alpha_bars: Tensor,
    device: str | torch.device,
    sample_steps: int = 30,
    ancestral: bool = False,
    *,
    timesteps: Sequence[int] | None = None,
    spacing: str = _native.SPACINGS[0],
    **keywords: Unpack[Keywords],
) -> Tensor:
    """Draw images by Euler's method on the probability flow (Karras et al. 2022), one model call a step.

    Parameters
    ----------
    {drawing}
    {steps}
    ancestral : bool
        Step below the next level of noise, and return to it with fresh noise.
    {grid}
    {keywords}

    {images}

    {raises}
    """
    ancestral = checks.flag("ancestral", ancestral)
    grid = timesteps_of(alpha_bars, sample_steps, timesteps, spacing)
    table = _native.Table.euler(alpha_bars, grid, ancestral)
    return images_from_noise("euler", table, model, num_samples, image_shape, device, keywords)
