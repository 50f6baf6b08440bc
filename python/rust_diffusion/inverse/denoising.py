"""How wrong a denoiser is at each timestep: what methods of restoration are told of their prior."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from tqdm.auto import tqdm

from rust_diffusion import _native
from rust_diffusion.inverse.restoring import check_model
from rust_diffusion.model.card import card_of
from rust_diffusion.model.ema import averaged
from rust_diffusion.sampling.arguments import Arguments, schedule_length, timesteps_of
from rust_diffusion.sampling.run import draw
from rust_diffusion.sampling.sampler import Keywords, completed, with_keywords
from rust_diffusion.support import checks
from rust_diffusion.support.images import as_images, as_values
from rust_diffusion.support.values import check_values

#: What `r2` may be called by name: by the schedule alone, or from the network's derivative.
R2 = ("schedule", "jacobian")
#: Variance of the data that "schedule" assumes for a model that does not know it.
ASSUMED_VARIANCE = 0.25
#: Timesteps that are visited where the schedule has more of them.
MOST_VISITED = 100
#: A bar is shown of what takes longer than this, in seconds.
_PATIENCE = 2.0
_WITHOUT = ("generator", "x_T", "seed", "callback")


class LocalError(NamedTuple):
    """How wrong a denoiser is where more or less happens in the picture, from `denoising_error(local=True)`.

    The variance of an error at a pixel is read off a curve, from the squared gradient of x0_hat averaged around the
    pixel. Errors over their standard deviations are taken to be the same everywhere, with a variance for each Fourier
    mode. ``torch.save(tuple(error), path)`` keeps it, for `torch.load` to take its three tensors;
    ``LocalError(*torch.load(path))`` brings it back.

    Attributes
    ----------
    modes : Tensor
        Variances of the modes of errors over their standard deviations, (T, H, W // 2 + 1): about 1 on average.
    gradients : Tensor
        Squared gradients, in units of [-1, 1] squared, not falling, (T, points).
    variances : Tensor
        The mean squared error of pixels with these gradients, (T, points).
    """

    modes: Tensor
    gradients: Tensor
    variances: Tensor


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
    local: bool = False,
    timesteps: Sequence[int] | None = None,
    spacing: str = _native.SPACINGS[0],
    **keywords: Any,
) -> Tensor | LocalError:
    """Measure the mean squared error of x0_hat at each timestep, on images that training has not seen.

    It is the variance of x0 given x_t, averaged over pixels and images, if the denoiser is a good one, and tells the
    methods how far to trust it in any case: hand it to `daps_sample` or `pigdm_sample` as ``r2=``. Each image is noised
    once for each timestep that is visited, and denoised there. Between those, log error is interpolated linearly over
    the logarithm of (1 - ab) / ab.

    With `spectrum` the same for each Fourier mode of x0_hat - x0: what a denoiser does not know is smooth rather than
    grainy, and a method that takes it for grain trusts the denoiser's large shapes too much. With `local` it also tells
    air, which is certain, from edges, which are not. That keeps 8 bytes for each pixel, image and timestep visited.

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
    local : bool
        The same, and a curve from the gradients of x0_hat to the variance of a pixel.
    {grid}
    {keywords}

    Returns
    -------
    Tensor or LocalError
        The errors, (T,), float32 on the CPU, in units of [-1, 1] squared. With `spectrum` (T, H, W // 2 + 1), modes as
        `torch.fft.rfft2` of the norm "ortho" has them. With `local` three tensors together.

    {raises}
    """
    shared = completed("denoising_error", cast(Keywords, keywords), _WITHOUT)
    floor = checks.number("floor", floor)
    if floor <= 0:
        raise ValueError(f"floor must be above 0, got {floor}")
    size = checks.integer("batch_size", batch_size, 1)
    by_mode, by_place = checks.flag("spectrum", spectrum), checks.flag("local", local)
    gathered = "places" if by_place else "modes" if by_mode else "pixels"
    total = schedule_length(alpha_bars)
    steps = min(total, MOST_VISITED) if sample_steps is None else sample_steps
    grid = timesteps_of(alpha_bars, steps, timesteps, spacing)
    table = _native.visits_table(alpha_bars, grid)
    clean = _clean_images(images)
    first = checks.integer("seed", seed, -(2**63), 2**63 - 1 - len(clean))
    model = averaged(model)
    check_model(model, tuple(clean.shape[1:]), "images are")
    batches = range(0, len(clean), size)
    found = []
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
            found.append(draw("ERROR", table, run, _native.denoising_errors, gathered))
    everywhere = partial(_over_schedule, alpha_bars, grid)
    if not by_place:
        count = len(clean) * clean.shape[1] if by_mode else clean.numel()
        return everywhere((torch.stack(found).sum(0) / count).clamp(min=floor))
    visits = (torch.cat(visit, 1) for visit in zip(*found, strict=True))
    each = [_native.local_error(gradients, apart, floor) for gradients, apart in visits]
    return LocalError(*(everywhere(torch.stack(values)) for values in zip(*each, strict=True)))


def _clean_images(images: Any) -> Tensor:
    clean = as_images(images).detach()
    if clean.numel() == 0:
        raise ValueError(f"images is empty: at least one is needed, got shape {tuple(clean.shape)}")
    check_values("images", clean)
    return clean


def _over_schedule(alpha_bars: Tensor, grid: list[int], errors: Tensor) -> Tensor:
    bad = (~torch.isfinite(errors.view(len(grid), -1))).any(1).nonzero()
    if len(bad):
        raise ValueError(
            f"model gave NaN or infinity at timestep {grid[int(bad[0])]}: look at its weights "
            f"(torch.isfinite) and at the schedule"
        )
    return _native.errors_at_every_timestep(alpha_bars, grid, errors).float()


def spread(r2: Any, model: Any, alpha_bars: Tensor, timesteps: Sequence[int]) -> _native.Spread:
    """How x0 given x_t is spread at each timestep, from what the caller says about it."""
    if isinstance(r2, LocalError):
        modes, gradients, variances = (
            _at_steps(part, alpha_bars, timesteps, f"{name} of r2") for name, part in r2._asdict().items()
        )
        if (
            modes.ndim != 3
            or gradients.ndim != 2
            or gradients.shape != variances.shape
            or not gradients.numel()
        ):
            shapes = [tuple(part.shape) for part in r2]
            raise ValueError(
                f"r2 must hold (T, H, W // 2 + 1), (T, points) and (T, points) numbers, got {shapes}"
            )
        if bool((gradients.diff(dim=1) < -1e-6 * gradients[:, 1:]).any()):
            raise ValueError("gradients of r2 must not fall from point to point")
        return _native.Spread.local(modes, gradients, variances)
    if getattr(r2, "ndim", 0) == 3:
        return _native.Spread.modes(_at_steps(r2, alpha_bars, timesteps, "r2"))
    if isinstance(r2, tuple) and len(r2) == len(LocalError._fields) and isinstance(r2[0], Tensor):
        raise TypeError("r2 must be a LocalError, not the tuple that it was saved as: LocalError(*r2)")
    return _native.Spread.even(_variances(r2, model, alpha_bars, timesteps))


def _at_steps(r2: Any, alpha_bars: Tensor, timesteps: Sequence[int], name: str) -> Tensor:
    """What is known of every timestep, (T, ...), at those that are asked for."""
    known = checks.tensor(name, r2, torch.float64).detach()
    if known.layout is not torch.strided or known.is_meta:
        raise TypeError(
            f"{name} must be a dense tensor that holds numbers, got {known.layout} on {known.device}"
        )
    known = known.cpu()
    if known.ndim == 0 or len(known) != len(alpha_bars):
        got = len(known) if known.ndim else "one number"
        raise ValueError(f"{name} must have numbers for each timestep ({len(alpha_bars)}), got {got}")
    known = known[torch.as_tensor(timesteps)]
    if not bool((known.isfinite() & (known > 0)).all()):
        raise ValueError(f"{name} must be finite and above 0 at every timestep that is visited")
    return known


def _variances(r2: Any, model: Any, alpha_bars: Tensor, timesteps: Sequence[int]) -> list[float]:
    """The variance of x0 given x_t at each timestep, from what the caller says about it."""
    bars = torch.as_tensor(alpha_bars, dtype=torch.float64).cpu()
    if isinstance(r2, str):
        checks.choice("r2", r2, R2[:1])
        card = card_of(averaged(model))
        known = None if card is None else card.data_variance
        s = ASSUMED_VARIANCE if known is None else known
        found = [s * (1 - float(bars[t])) / (float(bars[t]) * s + 1 - float(bars[t])) for t in timesteps]
    elif callable(r2):
        found = [checks.number("what r2 returned", r2(t)) for t in timesteps]
    elif getattr(r2, "ndim", 0) == 1 or isinstance(r2, (list, tuple)):
        table = checks.tensor("r2", r2).detach().double().cpu()
        if len(table) != len(bars):
            raise ValueError(f"r2 must have one entry per timestep ({len(bars)}), got {len(table)}")
        found = [float(table[t]) for t in timesteps]
    else:
        found = [checks.number("r2", r2)] * len(timesteps)
    if not all(0 < value < float("inf") for value in found):
        raise ValueError(f"r2 must be finite and above 0 at every timestep, got {min(found)}")
    return found
