"""Kernels that blur."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rust_diffusion.support import checks


def gaussian_kernel(size: int, std: float) -> Tensor:
    """A Gaussian of standard deviation `std` pixels, normalised.

    Parameters
    ----------
    size : int
        Height and width; the field's common one is 61, with `std` 3.0.
    std : float
        Above 0, in pixels.

    Returns
    -------
    Tensor
        (size, size), float64.

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit.
    """
    size = checks.integer("size", size, 1)
    return gaussian_blur(size, checks.number("std", std) ** 2, "std")


def gaussian_blur(size: int, variance: float, name: str) -> Tensor:
    """The same by its variance, which follows from the argument `name`."""
    if variance <= 0:
        raise ValueError(f"{name} must be above 0, got {variance}")
    place = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    line = torch.exp(-(place**2) / (2 * variance))
    kernel = line[:, None] * line[None, :]
    return kernel / kernel.sum()


def motion_kernel(size: int, angle: float = 0.0) -> Tensor:
    """A straight line through the middle: what a camera's motion does to a point.

    Parameters
    ----------
    size : int
        Height and width, and the length of the line.
    angle : float
        In degrees, from the rows down to the columns.

    Returns
    -------
    Tensor
        (size, size), float64, normalised. For i in 0..size-1, pixel (int(c + (i - c) sin a), int(c + (i - c) cos a)) is
        hit, with c = size // 2 and `int` cutting off: the line is not exactly centred.

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit.
    """
    size = checks.integer("size", size, 1)
    turn = math.radians(checks.number("angle", angle))
    centre = size // 2
    kernel = torch.zeros(size, size, dtype=torch.float64)
    for i in range(size):
        row, column = (int(centre + (i - centre) * part) for part in (math.sin(turn), math.cos(turn)))
        if 0 <= row < size and 0 <= column < size:
            kernel[row, column] = 1.0
    return kernel / kernel.sum()


def random_motion_kernel(size: int, intensity: float = 0.5, seed: int = 0) -> Tensor:
    """A shaken camera: a random path, drawn with a thin pen and normalised.

    Parameters
    ----------
    size : int
        Height and width; the field's common one is 61, with `intensity` 0.5.
    intensity : float
        0 is a straight line, 1 turns as often as it can.
    seed : int
        The same seed gives the same path.

    Returns
    -------
    Tensor
        (size, size), float64.

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit.
    """
    size = checks.integer("size", size, 1)
    intensity = checks.number("intensity", intensity, 0.0, 1.0)
    generator = torch.Generator().manual_seed(checks.integer("seed", seed, -(2**63), 2**63 - 1))
    path = _path(8 * size, intensity, generator)
    path -= (path.amax(0) + path.amin(0)) / 2
    reach = path.abs().max().clamp(min=1e-9)
    centre = (size - 1) / 2
    return _drawn(centre + path * (centre / reach) * 0.8, size)


def _path(steps: int, intensity: float, generator: torch.Generator) -> Tensor:
    """Places of a point whose direction drifts and at times jumps, (steps, 2)."""
    drift = torch.randn(steps, generator=generator, dtype=torch.float64) * 0.15 * intensity
    jumps = torch.rand(steps, generator=generator, dtype=torch.float64) < 0.05 * intensity
    turns = torch.rand(steps, generator=generator, dtype=torch.float64) * math.pi - math.pi / 2
    start = torch.rand(1, generator=generator, dtype=torch.float64) * 2 * math.pi
    direction = start + torch.cumsum(drift + torch.where(jumps, turns, 0.0), 0)
    return torch.cumsum(torch.stack([direction.sin(), direction.cos()], 1), 0)


def _drawn(path: Tensor, size: int) -> Tensor:
    """Each place shared out among the four pixels around it."""
    kernel = torch.zeros(size + 1, size + 1, dtype=torch.float64)
    low = path.floor().clamp(0, size - 1)
    share = path - low
    for down in (0, 1):
        for right in (0, 1):
            weights = (share[:, 0] if down else 1 - share[:, 0]) * (share[:, 1] if right else 1 - share[:, 1])
            rows, columns = low[:, 0].long() + down, low[:, 1].long() + right
            kernel.index_put_((rows, columns), weights, accumulate=True)
    kernel = kernel[:size, :size]
    return kernel / kernel.sum()
