"""How close a reconstruction is, and the noise that makes it hard."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rust_diffusion import _native
from rust_diffusion.sampling.noise import check_one_source
from rust_diffusion.support import checks


def PSNR(x_pred: Any, x_true: Any) -> float:
    """Peak signal-to-noise ratio in decibels, -10 log10 of the mean squared error.

    Parameters
    ----------
    x_pred, x_true : Tensor or array
        Pictures in [0, 1] (see `denormalize_to_01`), (N, C, H, W) or one of them without N, or N and C.

    Returns
    -------
    float
        The mean over the batch.

    Raises
    ------
    ValueError, TypeError
        If shapes or dtypes do not fit.
    """
    return _mean("PSNR", x_pred, x_true)


def SSIM(x_pred: Any, x_true: Any) -> float:
    """Structural similarity (Wang et al. 2004), the mean of its whole map.

    The window is a Gaussian of 11 x 11 pixels with sigma 1.5, zeros lie around the pictures, the constants are 0.01^2
    and 0.03^2.

    Parameters
    ----------
    x_pred, x_true : Tensor or array
        As for `PSNR`.

    Returns
    -------
    float
        The mean over the batch, at most 1.

    Raises
    ------
    ValueError, TypeError
        If shapes or dtypes do not fit.
    """
    return _mean("SSIM", x_pred, x_true)


def RE(x_pred: Any, x_true: Any) -> float:
    """Relative error ``|x_pred - x_true| / |x_true|`` of each image, averaged over the batch; see `PSNR`."""
    return _mean("RE", x_pred, x_true)


def RMSE(x_pred: Any, x_true: Any) -> float:
    """Root of the mean squared error of each image, averaged over the batch; see `PSNR`."""
    return _mean("RMSE", x_pred, x_true)


def per_image(name: str, x_pred: Any, x_true: Any) -> Tensor:
    """One of these for each image: float64 of shape (N,)."""
    return _native.metric(name, _batch("x_pred", x_pred), _batch("x_true", x_true))


def _mean(name: str, x_pred: Any, x_true: Any) -> float:
    return float(per_image(name, x_pred, x_true).mean())


def _batch(name: str, value: Any) -> Tensor:
    pictures = checks.tensor(name, value)
    if not 2 <= pictures.ndim <= 4:
        raise ValueError(f"{name} must have shape (N, C, H, W), got {tuple(pictures.shape)}")
    return pictures.reshape((1,) * (4 - pictures.ndim) + tuple(pictures.shape))


def gaussian_noise(
    y: Any, noise_level: float, generator: torch.Generator | None = None, *, seed: int | None = None
) -> Tensor:
    """Draw noise whose norm is `noise_level` times that of `y`: ``e / |e| |y| level``, over all of `y` at once.

    Parameters
    ----------
    y : Tensor or array
        What the noise is to be added to.
    noise_level : float
        At least 0; 0.01 is 1 %.
    generator : torch.Generator, optional
        Source of the draw; torch's global one otherwise.
    seed : int, optional
        Instead of `generator`.

    Returns
    -------
    Tensor
        The noise alone, of shape, dtype and device of `y`.

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit.
    """
    y = checks.tensor("y", y)
    if not y.is_floating_point():
        raise TypeError(f"y must be a floating-point tensor, got {y.dtype}")
    level = checks.number("noise_level", noise_level, 0.0)
    check_one_source(generator, seed)
    if seed is not None:
        generator = torch.Generator(y.device).manual_seed(checks.integer("seed", seed, -(2**63), 2**63 - 1))
    e = torch.randn(y.shape, generator=generator, dtype=y.dtype, device=y.device)
    return e / torch.norm(e) * torch.norm(y) * level
