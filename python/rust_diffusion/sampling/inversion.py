"""The way from images to noise, and what it is good for: likelihoods, and images between others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from rust_diffusion import _native
from rust_diffusion.sampling.arguments import Arguments, schedule_length, timesteps_of
from rust_diffusion.sampling.run import draw, warned_of_nan
from rust_diffusion.sampling.sampler import Keywords, completed, with_keywords
from rust_diffusion.sampling.samplers import ddim_sample
from rust_diffusion.support import checks

#: No noise is drawn on the way up.
_NOISELESS = ("generator", "x_T", "seed")
_START_ONLY = ("x_T",)


@with_keywords(*_NOISELESS)
def ddim_invert(
    model: Any,
    x: Tensor,
    alpha_bars: Tensor,
    device: str | torch.device,
    sample_steps: int = 50,
    *,
    timesteps: Sequence[int] | None = None,
    spacing: str = _native.SPACINGS[0],
    **keywords: Unpack[Keywords],
) -> Tensor:
    """Take images to their noise along the path of DDIM (Song, Meng and Ermon 2021, section 5.4).

    The steps are those of diffusers' DDIMInverseScheduler: from the clean image up, the model asked at the timestep
    that a step leads to; the noise of one for "x0" is that between the image and its answer at that timestep. One for
    "flow" is shown times between timesteps, and is asked at the time of the image that it is shown. `ddim_sample` with
    ``x_T=`` the result and the same timesteps comes back to the images, the closer the more steps there are.

    Parameters
    ----------
    model : DiffusionUNet, EMA or callable
        As in `ddim_sample`.
    x : Tensor
        Images in [-1, 1], (N, C, H, W).
    alpha_bars : Tensor
        The schedule, shape (T,).
    device : str or torch.device
        Where to compute; the model must be there.
    {steps}
    {grid}
    {keywords}

    Returns
    -------
    Tensor
        Noise at the highest of the timesteps, (N, C, H, W); never clamped.

    {raises}
    """
    grid = timesteps_of(alpha_bars, sample_steps, timesteps, spacing)
    run = _run_from("ddim_invert", model, x, device, keywords, _NOISELESS)
    table = _native.Table.ddim_invert(alpha_bars, grid, run.objective == "x0")
    return warned_of_nan(draw("INVERT", table, run))


@with_keywords(*_START_ONLY, "clip")
def log_likelihood(
    model: Any,
    x: Tensor,
    alpha_bars: Tensor,
    device: str | torch.device,
    sample_steps: int = 100,
    *,
    probes: int = 1,
    timesteps: Sequence[int] | None = None,
    spacing: str = _native.SPACINGS[0],
    **keywords: Unpack[Keywords],
) -> Tensor:
    """Bits per dimension of images, by the probability flow (Song et al. 2021, section 4.3 and appendix D.2).

    The flow is solved by Heun's method from the image to the highest timestep, where it is taken for standard normal
    noise; the change of density is the divergence of the flow, estimated with random signs (Hutchinson 1990). Images
    are taken as they are: those of 256 grey levels want noise of a level's width added, or their density is unbounded.

    Parameters
    ----------
    model : DiffusionUNet, EMA or callable
        As in `ddim_sample`; differentiated with respect to x_t.
    x : Tensor
        Images in [-1, 1], (N, C, H, W).
    alpha_bars : Tensor
        The schedule, shape (T,).
    device : str or torch.device
        Where to compute; the model must be there.
    {steps}
    probes : int
        Random signs per image; their mean is taken. Each costs a pass back through the model.
    {grid}
    {keywords}

    Returns
    -------
    Tensor
        Of the 256 grey levels in [-1, 1]: -log2 p(x) / (C H W) + 7, float32, (N,). Lower is likelier.

    {raises}
    """
    probes = checks.integer("probes", probes, 1)
    grid = timesteps_of(alpha_bars, sample_steps, timesteps, spacing)
    run = _run_from("log_likelihood", model, x, device, keywords, (*_START_ONLY, "clip"))
    run.clip = False  # a clamp would change the density that is asked for
    table = _native.Table.flow_up(alpha_bars, grid)
    nats = draw("LIKELIHOOD", table, run, _native.log_density, probes)
    return (7 - nats / (math.log(2) * math.prod(run.shape[1:]))).float()


@with_keywords(*_NOISELESS)
def interpolate(
    model: Any,
    a: Tensor,
    b: Tensor,
    alpha_bars: Tensor,
    device: str | torch.device,
    num_images: int = 8,
    timestep: int | None = None,
    sample_steps: int = 50,
    *,
    timesteps: Sequence[int] | None = None,
    spacing: str = _native.SPACINGS[0],
    **keywords: Unpack[Keywords],
) -> Tensor:
    """Images on the way from one to another (Ho et al. 2020, section 4.4; Song, Meng and Ermon 2021, section 5.3).

    Both are taken to their noise by `ddim_invert`, up to `timestep`; there their clean parts are mixed in a straight
    line and their noise along a great circle, and DDIM leads each mixture back.

    Parameters
    ----------
    model : DiffusionUNet, EMA or callable
        As in `ddim_sample`.
    a, b : Tensor
        Images in [-1, 1], (C, H, W) or (1, C, H, W).
    alpha_bars : Tensor
        The schedule, shape (T,).
    device : str or torch.device
        Where to compute; the model must be there.
    num_images : int
        How many, those at both ends included.
    timestep : int, optional
        Where to mix, in 1..T-1: the higher, the more of the images is made up anew. Default: half-way.
    sample_steps : int
        Steps up to `timestep`, and down again.
    timesteps : sequence of int, optional
        A strictly decreasing list out of 0..T-1 to use instead of `timestep` and `sample_steps`: up to the first of
        them, and down again.
    spacing : {"course", "leading", "linspace", "trailing"}
        Of these steps, as in `ddim_sample`.
    {keywords}

    Returns
    -------
    Tensor
        Images in [-1, 1] (if `clip`), float32, (num_images, C, H, W), from a to b.

    {raises}
    """
    completed("interpolate", keywords, _NOISELESS)
    count = checks.integer("num_images", num_images, 1)
    grid = _grid_up_to(timestep, sample_steps, timesteps, spacing, schedule_length(alpha_bars))
    ends = _pair(a, b)
    noisy = ddim_invert(model, ends, alpha_bars, device, timesteps=grid, **keywords)
    first, second = ((ends[k : k + 1].to(noisy), noisy[k : k + 1]) for k in range(2))
    keywords["x_T"] = _native.between(first, second, float(alpha_bars[grid[0]]), count)
    return ddim_sample(model, count, ends.shape[1:], alpha_bars, device, timesteps=grid, **keywords)


def _grid_up_to(timestep: Any, sample_steps: Any, timesteps: Any, spacing: Any, total: int) -> list[int]:
    """Return the timesteps to visit from `timestep` down, or those that are given."""
    if timesteps is not None:
        if timestep is not None:
            raise ValueError(
                f"timestep must be left out where timesteps are given, whose first it is, got {timestep!r}"
            )
        return checks.integers("timesteps", timesteps)
    top = total // 2 if timestep is None else checks.integer("timestep", timestep, 1, total - 1)
    steps = min(checks.integer("sample_steps", sample_steps, 1), top + 1)
    return _native.timestep_grid(top + 1, steps, checks.choice("spacing", spacing, _native.SPACINGS))


def _run_from(
    name: str, model: Any, x: Any, device: Any, keywords: Keywords, without: Sequence[str]
) -> Arguments:
    """Arguments of a run that begins at the images `x`."""
    keywords = completed(name, keywords, without)
    x = checks.tensor("x", x)
    if x.ndim != 4 or len(x) < 1:
        raise ValueError(f"x must have shape (N, C, H, W) with N >= 1, got {tuple(x.shape)}")
    _check_values("x", x)
    return Arguments(model, len(x), x.shape[1:], device, {**keywords, "x_T": x}, name)


def _check_values(name: str, images: Tensor) -> None:
    if not images.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor in [-1, 1], got {images.dtype}")
    checks.finite(name, images)


def _pair(a: Any, b: Any) -> Tensor:
    """Both images as one batch."""
    images = []
    for name, image in (("a", a), ("b", b)):
        image = checks.tensor(name, image)
        shape = tuple(image.shape)
        if image.ndim not in (3, 4) or (image.ndim == 4 and len(image) != 1):
            raise ValueError(f"{name} must be one image, (C, H, W) or (1, C, H, W), got {shape}")
        _check_values(name, image)
        images.append(image.detach().reshape(1, *shape[-3:]))
    if images[0].shape != images[1].shape:
        shapes = [tuple(image.shape[1:]) for image in images]
        raise ValueError(f"a and b must have the same shape, got {shapes[0]} and {shapes[1]}")
    return torch.cat(images)
