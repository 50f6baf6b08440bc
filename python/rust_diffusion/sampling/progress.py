"""What a sampler tells while it draws: a bar, and a callback after each step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor
from tqdm.auto import tqdm


class SamplerStep(NamedTuple):
    """What a sampler's callback is told after each step."""

    #: From 0 to ``total - 1``.
    index: int  # type: ignore[assignment]
    total: int
    #: The timestep at which the model was asked.
    timestep: int
    #: The next iterate, (N, C, H, W).
    x: Tensor
    #: The clean image the model believed in at this step, clamped to [-1, 1].
    x0_hat: Tensor


class Progress:
    """A bar and a callback as the one function that the engine reports to."""

    def __init__(
        self, name: str, total: int, progress: bool, callback: Callable[[SamplerStep], Any] | None
    ) -> None:
        if callback is not None and not callable(callback):
            raise TypeError(f"callback must be callable, got {type(callback).__name__}")
        self._bar = tqdm(total=total, desc=name, unit="step", disable=not progress, leave=True)
        self._callback = callback

    def __enter__(self) -> Callable[..., None]:
        return self._step

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def _step(self, index: int, total: int, timestep: int, x: Tensor, x0_hat: Tensor) -> None:
        self._bar.update(1)
        if self._callback is not None:
            self._callback(SamplerStep(index, total, timestep, x, x0_hat))
