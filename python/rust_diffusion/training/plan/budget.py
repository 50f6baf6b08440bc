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

    #: No more than these, where the data do not say how many batches an epoch has.
    epochs: int
    updates: int


class Budget:
    """The time that a call of `train` may take, counted from when this is made."""

    def __init__(self, minutes: float) -> None:
        self.minutes, self._began = minutes, clock()
        #: When the measured updates began, and how many there were before.
        self._first: tuple[float, int] | None = None
        #: Seconds since then that went into ends of epochs.
        self._paused = 0.0
        self._asked = 0
        #: What was found: updates in a second, and the share of the time that ends of epochs take.
        self.speed, self.share = math.nan, math.nan
        #: Minutes that what is made takes with the end of its epoch: the least that a run can have.
        self.least = math.nan

    def pause(self, seconds: float) -> None:
        """Note what the end of an epoch took: no part of the speed, since `fitting` reckons with ends by themselves."""
        self._paused += seconds

    def has_measured(self, updates: int) -> bool:
        """Whether the speed is known well enough, now that so many updates are made."""
        self._asked += 1
        now = clock()
        if self._first is None:
            if self._asked >= _WARM_UP:
                self._first, self._paused = (now, updates), 0.0
            return False
        spent, made = now - self._first[0], updates - self._first[1]
        # ends of epochs use the time up too, and must not put off the answer
        share = spent / (60 * self.minutes)
        if made < 1 or spent <= self._paused or (share < _LONGEST and (share < _SHORTEST or made < _UPDATES)):
            return False
        self.speed = made / (spent - self._paused)
        return True

    @staticmethod
    def now() -> float:
        """Seconds, for whoever measures something for `fitting`."""
        return clock()

    def fitting(self, updates: int, per_epoch: float | None, seconds: float) -> int:
        """How many updates fit in all.

        Parameters
        ----------
        updates : int
            Those that are made.
        per_epoch : float, optional
            In an epoch; None where the data do not say, and none has ended.
        seconds : float
            What the end of an epoch takes: files, validation, samples, callback.
        """
        spent = clock() - self._began
        left = 60 * self.minutes * (1 - _MARGIN) - spent
        self.least = (spent + seconds) / 60
        per_update = 1 / self.speed + (0.0 if per_epoch is None else seconds / per_epoch)
        self.share = 1 - 1 / self.speed / per_update
        # The last epoch may be a part of one, and ends all the same.
        return updates + max(math.floor((left - seconds) / per_update), 0)
