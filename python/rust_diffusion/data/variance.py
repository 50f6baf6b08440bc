"""How much the training images differ among each other: one number that inverse methods read from the card."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class DataVariance:
    """The variance of images about their mean image, averaged over the pixels, in one pass over the images.

    The mean over all pixels p of Var(x_p), with 1/N, in float64. It is S in the model x0 ~ N(mean image, S I), under
    which the denoiser's error at noise level t is r^2(t) = S (1 - alpha_bar) / (alpha_bar S + 1 - alpha_bar).
    """

    def __init__(self) -> None:
        self._count = 0
        self._sums: Tensor | None = None
        self._squares: Tensor | None = None
        self._mixed = False

    def add(self, images: Tensor) -> None:
        """Take in a batch, (N, C, H, W), values in [-1, 1]; batches in any order and of any number."""
        # to the CPU first where the device may have no float64
        images = (images.cpu() if images.device.type == "mps" else images).detach().to(torch.float64)
        sums, squares = images.sum(0).cpu(), images.square().sum(0).cpu()
        if self._sums is None or self._squares is None:
            self._sums, self._squares = torch.zeros_like(sums), torch.zeros_like(squares)
        if sums.shape != self._sums.shape:
            self._mixed = True
            return
        self._sums += sums
        self._squares += squares
        self._count += len(images)

    def value(self) -> float | None:
        """Return the variance so far; None of fewer than two images, or of images of several sizes."""
        if self._mixed or self._count < 2 or self._sums is None or self._squares is None:
            return None
        means = self._sums / self._count
        variance = (self._squares / self._count - means.square()).clamp(min=0).mean().item()
        return variance if math.isfinite(variance) else None
