"""What a trained model says of itself: what it predicts, its noise schedule, the size of its images."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rust_diffusion import _native
from rust_diffusion.model.unet import DiffusionUNet
from rust_diffusion.support import checks

#: What a network can predict.
OBJECTIVES = _native.OBJECTIVES


def schedule_of(model: DiffusionUNet, betas: Any = None) -> Tensor:
    """Return `betas` if they are given, else the schedule that the model carries."""
    betas = model.betas if betas is None else betas
    if betas is None:
        raise ValueError("betas: this model does not know the schedule it was trained with; give betas=")
    return checks.schedule("betas", betas)


def size_of(model: DiffusionUNet, image_size: Any = None) -> tuple[int, int]:
    """Return `image_size` if it is given, else the height and width that the model carries."""
    image_size = model.image_size if image_size is None else image_size
    if image_size is None:
        raise ValueError(
            "image_size: this model does not know the size of its images; give image_size=(H, W)"
        )
    return checks.pair("image_size", image_size)
