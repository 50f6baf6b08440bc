"""Whether the numbers in images are what the network is trained on: finite, and in [-1, 1]."""

from __future__ import annotations

from torch import Tensor

from rust_diffusion.support.warning import warn

#: Interpolation overshoots a little; what is farther from [-1, 1] than this has not been scaled at all.
_FAR = 1.5
#: Images that reach over [0, 1] come this near to both of its ends.
_NEAR = 0.1


def check_values(name: str, images: Tensor) -> None:
    """Refuse floating-point images that are not finite, and warn of a range that nobody means.

    Raises
    ------
    ValueError
        If there is NaN or infinity in them.
    """
    if not images.is_floating_point() or images.numel() == 0:
        return
    # Piece by piece: a GPU, or a file mapped into memory, need not hold more at a time.
    ranges = [part.aminmax() for part in images.split(1024)]
    low, high = min(float(low) for low, _ in ranges), max(float(high) for _, high in ranges)
    if not all(bool(bound.isfinite()) for pair in ranges for bound in pair):
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    warn_of_range(name, low, high)


def warn_of_values(name: str, images: Tensor) -> None:
    """Warn of the range of one batch; what is not finite shows in its loss."""
    if images.is_floating_point() and images.numel() > 0:
        low, high = images.aminmax()
        warn_of_range(name, float(low), float(high))


def warn_of_range(name: str, low: float, high: float) -> None:
    """Say that images from `low` to `high` are to be scaled to [-1, 1], and how; NaN says nothing."""
    if 0 <= low <= _NEAR and 1 - _NEAR <= high <= 1:
        remedy = "2 * x - 1"
    elif low >= 0 and _FAR < high <= 255:
        remedy = "x / 127.5 - 1, or hand them over as uint8"
    elif low < -_FAR or high > _FAR:
        remedy = f"2 * (x - low) / (high - low) - 1 with low={low:g}, high={high:g}"
    else:
        return
    warn(
        f"{name} has values from {low:g} to {high:g}; noise and samplers are made for images in [-1, 1]. "
        f"Scale them: {remedy}"
    )
