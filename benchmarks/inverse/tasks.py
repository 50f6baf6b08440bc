"""The six tasks: what is measured, and with which noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from rust_diffusion.operators import Blurring, CTProjector, DownScaling, Inpainting, Operator
from torch import Tensor

from benchmarks.inverse.prior import SIZE

SHAPE = (SIZE, SIZE)


@dataclass(frozen=True)
class Task:
    """An operator and its noise."""

    title: str
    operator: Operator
    #: Of images in [-1, 1]; or None, and the noise is 1 % of each measurement's norm.
    sigma: float | None = None

    def measured(self, truth: Tensor) -> tuple[Operator, Tensor, Tensor]:
        """Return the operator on [-1, 1], a measurement of each image, and the noise's standard deviations, (N,)."""
        K = self.operator
        if isinstance(K, CTProjector):  # air is 0 and casts no shadow
            K = K.on_unit_range()
        clean = K(truth)
        e = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        if self.sigma is not None:
            return K, clean + self.sigma * e, torch.full((len(truth),), self.sigma)
        size = 0.01 * clean.flatten(1).norm(dim=1)
        noise = e / e.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * size.view(-1, 1, 1, 1)
        return K, clean + noise, size / math.sqrt(clean[0].numel())


def tomography(count: int, degrees: float) -> CTProjector:
    """Make a scanner of `count` directions, evenly from 0 on."""
    return CTProjector(SHAPE, torch.arange(count, dtype=torch.float64) * (math.radians(degrees) / count))


#: The course's own task: its loops are measured on no other.
COURSE = "deblur"
TASKS = {
    COURSE: Task(
        "deblurring, motion 9/20°, 1 %",
        Blurring(SHAPE, kernel_type="motion", kernel_size=9, motion_angle=20),
    ),
    "inpaint": Task("inpainting, 50 % of the pixels, σ .05", Inpainting(SHAPE, keep=0.5), 0.05),
    "x4": Task("super-resolution ×4, means, σ .05", DownScaling(SHAPE, 4), 0.05),
    "ct60": Task("CT, 60 angles over 180°, 1 %", tomography(60, 180)),
    "ct20": Task("CT, 20 angles over 180°, 1 %", tomography(20, 180)),
    "ct120": Task("CT, 60 angles over 120°, 1 %", tomography(60, 120)),
}
