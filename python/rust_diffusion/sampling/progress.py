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
    #: The timestep at which the model was asked; a float where a sampler asks between timesteps.
    timestep: float
    #: The next iterate, (N, C, H, W).
    x: Tensor
    #: The clean image that x_t was taken for at this step, clamped to [-1, 1] unless ``clip=False``.
    x0_hat: Tensor


class Progress:
    """Those who listen to a run: `show` draws the bar anew, `callback` hears of each step; None if nobody does."""

    def __init__(
        self, name: str, total: int, progress: bool, callback: Callable[[SamplerStep], Any] | None
    ) -> None:
        if callback is not None and not callable(callback):
            raise TypeError(f"callback must be callable, got {type(callback).__name__}")
        self._bar = tqdm(total=total, desc=name, unit="step", disable=not progress, leave=True)
        self.show = self._show if progress else None
        self.callback = None if callback is None else lambda *step: callback(SamplerStep(*step))

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def _show(self, done: int) -> None:
        """Take the bar to `done` steps; the engine asks for it at a pace that can be read."""
        self._bar.update(done - self._bar.n)
        self._bar.refresh()
