"""The progress bar of an epoch, and the lines beside it."""

from __future__ import annotations

import time
from typing import Any

from tqdm.auto import tqdm


class Bar:
    """One bar per epoch, or none at all: `shown` says whether anybody looks."""

    def __init__(self, shown: bool, epochs: int, batches: int | None) -> None:
        self._shown, self._epochs, self._batches = shown, epochs, batches
        self._bar: Any = None
        self._epoch = self._first = 0
        self._began = 0.0

    def say(self, text: str) -> None:
        """A line beside the bar."""
        if self._shown:
            tqdm.write(text)

    def open(self, epoch: int, batch: int) -> None:
        """Begin epoch `epoch` (from 0), or go on in it after `batch` batches."""
        self._epoch, self._first, self._began = epoch, batch, time.perf_counter()
        if self._shown:
            title = f"DDPM epoch {epoch + 1}/{self._epochs}"
            self._bar = tqdm(total=self._batches, initial=batch, desc=title, leave=True)

    def show(self, batch: int, loss: float, mean: float, images_per_second: float) -> None:
        """Bring it up to date."""
        if self._bar is not None:
            numbers = {"loss": f"{loss:.5f}", "avg": f"{mean:.5f}", "img/s": f"{images_per_second:.1f}"}
            self._bar.set_postfix({**numbers, **self._time_left(batch)}, refresh=False)
            self._bar.update(batch - self._bar.n)

    def _time_left(self, batch: int) -> dict[str, str]:
        """How long all the epochs will take, at the speed of this one."""
        done = batch - self._first
        if self._batches is None or done <= 0:
            return {}
        left = (self._epochs - self._epoch) * self._batches - batch
        return {"left": tqdm.format_interval(left * (time.perf_counter() - self._began) / done)}

    def finish(self, loss: float, images_per_second: float) -> None:
        """The epoch is over."""
        if self._bar is None:
            return
        if self._bar.total is not None:
            self._bar.update(self._bar.total - self._bar.n)
        self._bar.set_postfix({"avg": f"{loss:.5f}", "img/s": f"{images_per_second:.1f}"})
        self.close()

    def close(self) -> None:
        """Leave it as it is."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
