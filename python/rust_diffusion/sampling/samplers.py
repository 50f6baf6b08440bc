"""Drawing images with DDPM and DDIM: what people call; the loops are the engine's."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rust_diffusion import _native
from rust_diffusion.sampling.arguments import PRECISIONS, Arguments
from rust_diffusion.sampling.progress import Progress, SamplerStep
from rust_diffusion.support import checks, guards

SPACINGS = ("course", "leading", "linspace", "trailing")


def ddpm_sample(
    model: Any,
    num_samples: int,
    image_shape: Sequence[int],
    betas: Tensor,
    alphas: Tensor,
    alpha_bars: Tensor,
    device: str | torch.device,
    *,
    generator: torch.Generator | None = None,
    x_T: Tensor | None = None,
    seed: int | Sequence[int] | None = None,
    objective: str | None = None,
    precision: str = PRECISIONS[0],
    progress: bool = True,
    callback: Callable[[SamplerStep], Any] | None = None,
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
    generator : torch.Generator, optional
        Source of all draws; torch's global generator of the device otherwise.
    x_T : Tensor, optional
        Starting noise, (num_samples, C, H, W).
    seed : int or sequence of int, optional
        A stream of its own for each image, on the CPU: image k has seed ``seed + k`` (or ``seed[k]``) and is the same
        whatever the batch size and the device.
    objective : {"eps", "x0", "v"}, optional
        What the model predicts. Default: what it was trained for, "eps" if it does not say.
    precision : {"fp32", "bf16", "fp16"}
        What a DiffusionUNet computes its convolutions and matrix products in; the sampler's own arithmetic and the
        result stay float32. bf16 is the fastest on CPUs and GPUs that have it; fp16 is for GPUs. Under the caller's
        autocast, "fp32" gives way to its dtype.
    progress : bool
        Show a progress bar.
    callback : callable, optional
        Called with a `SamplerStep` after each step.

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
    run = Arguments(model, num_samples, image_shape, device, generator, x_T, seed, objective, precision)
    bar = Progress("DDPM", len(alpha_bars) if _sized(alpha_bars) else 0, progress, callback)
    with guards.enough_memory(run.advice), run.modes(), bar as on_step:
        images = _native.ddpm_sample(
            run.model, run.start(), betas, alphas, alpha_bars, run.objective, run.noise, on_step
        )
    return _warned_of_nan(images)


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
    spacing: str = "course",
    generator: torch.Generator | None = None,
    x_T: Tensor | None = None,
    seed: int | Sequence[int] | None = None,
    objective: str | None = None,
    precision: str = PRECISIONS[0],
    progress: bool = True,
    callback: Callable[[SamplerStep], Any] | None = None,
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
    generator, x_T, seed, objective, progress, callback : optional
        As in `ddpm_sample`.
    precision : {"fp32", "bf16", "fp16"}
        What a DiffusionUNet computes its convolutions and matrix products in; the result stays float32.

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
    total = _schedule_length(alpha_bars)
    if timesteps is None:
        spacing = checks.choice("spacing", spacing, SPACINGS)
        sample_steps = checks.integer("sample_steps", sample_steps)
        grid = _native.timestep_grid(total, sample_steps, spacing)
    else:
        grid = checks.integers("timesteps", timesteps)
    run = Arguments(model, num_samples, image_shape, device, generator, x_T, seed, objective, precision)
    bar = Progress("DDIM", len(grid), progress, callback)
    with guards.enough_memory(run.advice), run.modes(), bar as on_step:
        images = _native.ddim_sample(
            run.model, run.start(), alpha_bars, grid, eta, run.objective, run.noise, on_step
        )
    return _warned_of_nan(images)


def _warned_of_nan(images: Tensor) -> Tensor:
    """The images, with a warning if some are no images at all."""
    bad = int((~torch.isfinite(images).flatten(1).all(dim=1)).sum())
    if bad:
        warnings.warn(
            f"{bad} of {len(images)} samples hold NaN or infinity: look at what the model returns "
            f"(torch.isfinite of its weights and output) and at the schedule",
            RuntimeWarning,
            stacklevel=3,
        )
    return images


def _sized(value: Any) -> bool:
    return hasattr(value, "__len__") and getattr(value, "ndim", 1) > 0


def _schedule_length(alpha_bars: Any) -> int:
    shape = getattr(alpha_bars, "shape", None)
    if shape is None:
        raise TypeError(
            f"alpha_bars must be a torch.Tensor or a NumPy array, got {type(alpha_bars).__name__}"
        )
    if len(shape) != 1 or shape[0] < 1:
        raise ValueError(f"alpha_bars must have shape (T,) with T >= 1, got {tuple(shape)}")
    return int(shape[0])
