"""The progress bar of a run, and the lines beside it."""

from __future__ import annotations

import logging
import time
from typing import Any

from tqdm.auto import tqdm

#: Where lines go that no bar stands beside; whoever wants them listens at level INFO.
messages = logging.getLogger(__name__.partition(".")[0])


class Bar:
    """One bar for all epochs, or none at all: `shown` says whether anybody looks.

    `epochs` is None while the length of the run is open, `batches` (of an epoch) where the data do not say.
    """

    def __init__(self, shown: bool, epochs: int | None, batches: int | None) -> None:
        self._shown, self._epochs, self._batches = shown, epochs, batches
        self._bar: Any = None
        #: What the bar shows before the epoch's first batch, and at the beginning of this call.
        self._before = self._first = 0
        self._epoch = 0
        self._began = 0.0
        self._settled: int | None = None

    @property
    def _total(self) -> int | None:
        if self._settled is not None or self._epochs is None or self._batches is None:
            return self._settled
        return self._epochs * self._batches

    def say(self, text: str) -> None:
        """A line beside the bar, or for the log."""
        if self._shown:
            tqdm.write(text)
        else:
            messages.info(text)

    def open(self, epoch: int, batch: int) -> None:
        """Begin epoch `epoch` (from 0), or go on in it after `batch` batches."""
        self._epoch = epoch
        if not self._shown:
            return
        self._before = epoch * self._batches if self._batches is not None else self._before
        if self._bar is None:
            self._first, self._began = self._before + batch, time.perf_counter()
            self._bar = tqdm(
                total=self._total, initial=self._first, desc=self._title(), unit="batch", leave=True
            )
        self._bar.set_description(self._title(), refresh=False)

    def settle(self, epochs: int | None, batches: int) -> None:
        """The length of the run is known now, in batches, and in epochs unless the data do not say."""
        self._epochs, self._settled = epochs, batches
        if self._bar is not None:
            self._bar.total = batches
            self._bar.set_description(self._title())

    def _title(self) -> str:
        of = "" if self._epochs is None else f"/{self._epochs}"
        return f"DDPM epoch {self._epoch + 1}{of}"

    def show(self, batch: int, loss: float, mean: float, images_per_second: float) -> None:
        """Bring it up to date."""
        if self._bar is not None:
            numbers = {"loss": f"{loss:.5f}", "avg": f"{mean:.5f}", "img/s": f"{images_per_second:.1f}"}
            self._bar.set_postfix({**numbers, **self._time_left(batch)}, refresh=False)
            self._bar.update(self._before + batch - self._bar.n)

    def _time_left(self, batch: int) -> dict[str, str]:
        """How long the rest will take at the speed of this call, ends of epochs included."""
        done = self._before + batch - self._first
        if self._bar.total is None or done <= 0:
            return {}
        left = max(self._bar.total - self._before - batch, 0)
        return {"left": tqdm.format_interval(left * (time.perf_counter() - self._began) / done)}

    def finish(self, loss: float, images_per_second: float) -> None:
        """The epoch is over."""
        if self._bar is not None:
            if self._batches is not None:
                end = self._before + self._batches
                self._bar.update(min(end, self._bar.total or end) - self._bar.n)
            self._bar.set_postfix({"avg": f"{loss:.5f}", "img/s": f"{images_per_second:.1f}"})
            self._before = self._bar.n

    def close(self) -> None:
        """Leave it as it is."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
