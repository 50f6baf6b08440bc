"""Minutes for a run, and the updates that fit into them."""

from __future__ import annotations

import math
import time
from typing import TypedDict

#: Tests put another one in its place.
clock = time.monotonic

#: The first updates are slower than the others: memory is taken, what is derived from the weights is made.
_WARM_UP = 3
#: What is measured: so many updates at least, or so large a share of the time; and in any case this share of it.
_UPDATES, _LONGEST, _SHORTEST = 10, 0.1, 0.03
#: Left free, for what varies.
_MARGIN = 0.015


class Length(TypedDict):
    """The end of a run, counted from its very beginning."""

    epochs: int
    updates: int


class Budget:
    """The time that a call of `train` may take, counted from when this is made."""

    def __init__(self, minutes: float) -> None:
        self.minutes, self._began = minutes, clock()
        #: When the measured updates began, and how many there were before.
        self._first: tuple[float, int] | None = None
        self._asked = 0
        #: What was found: updates in a second, and the share of the time that ends of epochs take.
        self.speed, self.share = math.nan, math.nan

    def has_measured(self, updates: int) -> bool:
        """Whether the speed is known well enough, now that so many updates are made."""
        self._asked += 1
        now = clock()
        if self._first is None:
            if self._asked >= _WARM_UP:
                self._first = now, updates
            return False
        spent, made = (now - self._first[0]) / (60 * self.minutes), updates - self._first[1]
        if made < 1 or spent <= 0 or (spent < _LONGEST and (spent < _SHORTEST or made < _UPDATES)):
            return False
        self.speed = made / (now - self._first[0])
        return True

    @staticmethod
    def now() -> float:
        """Seconds, for whoever measures something for `length`."""
        return clock()

    def length(self, updates: int, per_epoch: int | None, seconds: float) -> Length:
        """The epochs and updates that fit.

        Parameters
        ----------
        updates : int
            Those that are made.
        per_epoch : int, optional
            In an epoch; None where the data do not say.
        seconds : float
            What the end of an epoch takes: files, validation, samples.
        """
        left = 60 * self.minutes * (1 - _MARGIN) - (clock() - self._began)
        per_update = 1 / self.speed + (0.0 if per_epoch is None else seconds / per_epoch)
        # The last epoch may be a part of one, and ends all the same.
        whole = updates + max(math.floor((left - seconds) / per_update), 0)
        self.share = 1 - 1 / self.speed / per_update
        return Length(updates=whole, epochs=whole if per_epoch is None else math.ceil(whole / per_epoch))
