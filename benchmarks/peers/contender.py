"""What everybody who runs can do, and the course's numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from torch import Tensor

COURSE: dict[str, Any] = {
    "in_ch": 1,
    "base_ch": 64,
    "channel_mults": (1, 2, 4),
    "time_dim": 256,
    "dropout": 0.05,
    "attn_levels": (1, 2),
}
LEARNING_RATE, WEIGHT_DECAY, GRAD_CLIP, EMA_DECAY = 2e-4, 1e-4, 1.0, 0.9995


class Contender(ABC):
    """A name, a precision, and the pieces of work that are timed."""

    #: Whether its network has the course's layers.
    is_course = True
    #: Whether it does more than predict.
    trains = True

    def __init__(self, name: str, precision: str) -> None:
        self.name = name
        self.precision = precision

    @abstractmethod
    def predict(self, x: Tensor, t: Tensor) -> Tensor:
        """A forward pass."""

    @abstractmethod
    def train(self, batch: Tensor, betas: Tensor, steps: int) -> list[float]:
        """Seconds of each training step: t, eps, loss, backward, clip, AdamW, EMA."""

    @abstractmethod
    def sample(self, count: int, betas: Tensor, steps: int | None) -> Tensor:
        """Images by DDIM with so many steps, or by DDPM if `steps` is None."""

    @abstractmethod
    def epoch(self, folder: Path, betas: Tensor, batch_size: int) -> None:
        """Read a folder of PNG files and train on each once."""
