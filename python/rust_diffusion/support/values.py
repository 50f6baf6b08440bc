"""Whether the numbers in images are what the network is trained on: finite, and in [-1, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

from rust_diffusion.support.warning import warn

#: What is farther from [-1, 1] than this has not been scaled at all; interpolation overshoots [0, 1] by this.
_FAR, _OVERSHOOT = 1.5, 0.05
#: Grey levels of 8 bits: their white, and what the brightest of a set reaches.
_WHITE, _BRIGHT = 255, 100
#: Images of 16 bits whose levels all lie below this are nearly black: theirs is 12- or 13-bit data. And as a value.
DARK = 1 << 13
_DARK_VALUE = DARK / 32767.5 - 1


def check_values(name: str, images: Tensor) -> None:
    """Refuse floating-point images that are not finite, and warn of a range that nobody means.

    Raises
    ------
    ValueError
        If there is NaN or infinity in them.
    """
    if not images.is_floating_point() or images.numel() == 0:
        warn_of_values(name, images)
        return
    # Piece by piece: a GPU, or a file mapped into memory, need not hold more at a time.
    ranges = [part.aminmax() for part in images.split(1024)]
    low, high = min(float(low) for low, _ in ranges), max(float(high) for _, high in ranges)
    if not all(bool(bound.isfinite()) for pair in ranges for bound in pair):
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    warn_of_range(name, low, high)


def warn_of_values(name: str, images: Tensor) -> None:
    """Warn of the range of one batch; what is not finite shows in its loss."""
    if images.numel() == 0:
        return
    low, high = images.aminmax()
    if images.is_floating_point():
        warn_of_range(name, float(low), float(high))
    elif images.dtype == torch.uint8 and high == 1:
        warn(
            f"{name} has grey levels 0 and 1 only, of 0 to 255, and is all black: for 1 to be white, give 255 * x"
        )


def warn_of_range(name: str, low: float, high: float) -> None:
    """Say that images from `low` to `high` are to be scaled to [-1, 1], and how; NaN says nothing."""
    general = f"2 * (x - low) / (high - low) - 1 with low={low:g}, high={high:g}"
    if -1 - _OVERSHOOT <= low < high < _DARK_VALUE:
        warn(
            f"{name} has values from {low:g} to {high:g}, all nearly black, as data of 12 bits are that were taken "
            f"over the range of 16. Scale them: {general}, or read them by load_images with a window"
        )
        return
    if -_OVERSHOOT <= low < high <= 1 + _OVERSHOOT:
        remedy = "2 * x - 1"
    elif low >= 0 and _BRIGHT < high <= _WHITE:
        remedy = "x / 127.5 - 1, or hand them over as uint8"
    elif low < -_FAR or high > _FAR:
        remedy = general
    else:
        return
    warn(
        f"{name} has values from {low:g} to {high:g}; noise and samplers are made for images in [-1, 1]. "
        f"Scale them: {remedy}"
    )
