"""How wrong a denoiser is at each timestep: what methods of restoration have to know about their prior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from tqdm.auto import tqdm

from rust_diffusion import _native
from rust_diffusion.inverse.restoring import check_model
from rust_diffusion.model.ema import averaged
from rust_diffusion.sampling.arguments import Arguments, schedule_length, timesteps_of
from rust_diffusion.sampling.run import draw
from rust_diffusion.sampling.sampler import Keywords, completed, with_keywords
from rust_diffusion.support import checks
from rust_diffusion.support.images import as_images, as_values
from rust_diffusion.support.values import check_values

#: Timesteps that are visited where the schedule has more of them.
MOST_VISITED = 100
#: A bar is shown of what takes longer than this, in seconds.
_PATIENCE = 2.0
_WITHOUT = ("generator", "x_T", "seed", "callback")


@with_keywords(*_WITHOUT)
def denoising_error(
    model: Any,
    images: Any,
    alpha_bars: Tensor,
    device: str | torch.device,
    sample_steps: int | None = None,
    *,
    seed: int = 0,
    batch_size: int = 16,
    floor: float = 1e-5,
    spectrum: bool = False,
    timesteps: Sequence[int] | None = None,
    spacing: str = _native.SPACINGS[0],
    **keywords: Any,
) -> Tensor:
    """Measure the mean squared error of x0_hat at each timestep, on images that training has not seen.

    It is the variance of x0 given x_t, averaged over pixels and images, if the denoiser is a good one, and tells the
    methods how far to trust it in any case: hand it to `daps_sample` or `pigdm_sample` as ``r2=``. Each image is noised
    once for each timestep that is visited, and denoised there. Between those, log error is interpolated linearly over
    the logarithm of (1 - ab) / ab.

    With `spectrum` the same for each Fourier mode of x0_hat - x0: what a denoiser does not know is smooth rather than
    grainy, and a method that takes it for grain trusts the denoiser's large shapes too much.

    Parameters
    ----------
    model : DiffusionUNet, EMA or callable
        As in `daps_sample`.
    images : Tensor, array or list of images
        Held-out images, (N, C, H, W) in [-1, 1] or uint8 grey levels; some dozens are enough.
    alpha_bars : Tensor
        The schedule, shape (T,).
    device : str or torch.device
        Where to compute; the model must be there.
    sample_steps : int, optional
        How many timesteps are visited, between 1 and T. Default: all of them, up to 100. It takes as many passes
        through the model for each image.
    seed : int
        Image k is noised with the stream of ``seed + k``, whatever the `batch_size`.
    batch_size : int
        Images computed at a time.
    floor : float
        Above 0: errors below it are raised to it.
    spectrum : bool
        One number for each Fourier mode instead of one for all pixels.
    {grid}
    {keywords}

    Returns
    -------
    Tensor
        The errors, (T,), float32 on the CPU, in units of [-1, 1] squared. With `spectrum` (T, H, W // 2 + 1), modes as
        `torch.fft.rfft2` of the norm "ortho" has them.

    {raises}
    """
    shared = completed("denoising_error", cast(Keywords, keywords), _WITHOUT)
    floor = checks.number("floor", floor)
    if floor <= 0:
        raise ValueError(f"floor must be above 0, got {floor}")
    size = checks.integer("batch_size", batch_size, 1)
    by_mode = checks.flag("spectrum", spectrum)
    total = schedule_length(alpha_bars)
    steps = min(total, MOST_VISITED) if sample_steps is None else sample_steps
    grid = timesteps_of(alpha_bars, steps, timesteps, spacing)
    table = _native.visits_table(alpha_bars, grid)
    clean = _clean_images(images)
    first = checks.integer("seed", seed, -(2**63), 2**63 - 1 - len(clean))
    model = averaged(model)
    check_model(model, tuple(clean.shape[1:]), "images are")
    squares: Any = 0.0
    batches = range(0, len(clean), size)
    with tqdm(
        total=table.steps * len(batches),
        desc="ERROR",
        unit="step",
        delay=_PATIENCE,
        disable=not shared["progress"],
    ) as bar:
        told: Keywords = {**shared, "progress": False, "callback": lambda _: bar.update()}
        for start in batches:
            batch = as_values(clean[start : start + size])
            own: Keywords = {**told, "seed": first + start, "x_T": batch}
            run = Arguments(model, len(batch), batch.shape[1:], device, own, "denoising_error")
            squares = squares + draw("ERROR", table, run, _native.denoising_squares, by_mode)
    count = len(clean) * clean.shape[1] if by_mode else clean.numel()
    return _over_schedule(squares / count, alpha_bars, grid, floor)


def _clean_images(images: Any) -> Tensor:
    clean = as_images(images).detach()
    if clean.numel() == 0:
        raise ValueError(f"images is empty: at least one is needed, got shape {tuple(clean.shape)}")
    check_values("images", clean)
    return clean


def _over_schedule(errors: Tensor, alpha_bars: Tensor, grid: list[int], floor: float) -> Tensor:
    bad = (~torch.isfinite(errors.view(len(grid), -1))).any(1).nonzero()
    if len(bad):
        raise ValueError(
            f"model gave NaN or infinity at timestep {grid[int(bad[0])]}: look at its weights "
            f"(torch.isfinite) and at the schedule"
        )
    return _native.errors_at_every_timestep(alpha_bars, grid, errors.clamp(min=floor)).float()
