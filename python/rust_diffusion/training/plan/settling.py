"""A run in minutes settles its length: measured by the first updates, and by what the end of an epoch takes."""

from __future__ import annotations

from collections.abc import Callable

from rust_diffusion.training.keeping import WITH_WEIGHTS
from rust_diffusion.training.plan.budget import Budget, Length
from rust_diffusion.training.state import State
from rust_diffusion.training.watch import Looks


class Settling:
    """The length of a run, found on one process.

    `save` writes a checkpoint, None where nothing is kept; `batches` are those of an epoch, None where the data do not
    say.
    """

    def __init__(
        self,
        budget: Budget,
        state: State,
        looks: Looks,
        batches: int | None,
        save: Callable[[], None] | None,
    ) -> None:
        self._budget, self._state, self._looks, self._save = budget, state, looks, save
        #: Updates of an epoch: what the data say, and what they then turned out to be.
        self._per_epoch = None if batches is None else state.settings.updates_in(batches)
        self._seen: float | None = None
        #: What the user allows at most; the setting itself becomes what is settled.
        self._most = state.settings.max_steps
        #: What the user's callback took at each end so far, in seconds.
        self._in_callback: list[float] = []

    def note_end(self, seconds: float, in_callback: float) -> None:
        """The end of an epoch took so long, and so much of it the callback, which cannot be tried."""
        position = self._state.position
        self._budget.pause(seconds)
        self._in_callback.append(in_callback)
        self._seen = position["updates"] / position["epoch"]

    def length(self) -> Length | None:
        """The run's length, once enough is measured or no more is allowed; to be asked after each update."""
        updates, most = self._state.position["updates"], self._most
        if most is not None and updates >= most:
            return self._length(most)
        if not self._budget.has_measured(updates):
            return None
        fitting = self._budget.fitting(
            updates, self._per_epoch or self._seen or None, self._seconds_of_an_end()
        )
        return self._length(fitting if most is None else min(fitting, most))

    def _length(self, updates: int) -> Length:
        # an epoch has one update at least
        epochs = updates if self._per_epoch is None else -(-updates // self._per_epoch)
        return Length(updates=updates, epochs=epochs)

    def _seconds_of_an_end(self) -> float:
        """What the end of an epoch takes, by doing it: files, validation, samples; the callback as it did so far."""
        if self._save is not None:
            self._save()  # the first takes many times as long as those that follow
        start = self._budget.now()
        if self._save is not None:
            self._save()
        files = (self._budget.now() - start) * WITH_WEIGHTS
        callback = sum(self._in_callback) / max(len(self._in_callback), 1)
        return files + self._looks.seconds(self._state, self._budget.now) + callback

    def in_words(self, length: Length) -> str:
        """A line about the length that was found."""
        epochs = "" if self._per_epoch is None else f" ({_counted(length['epochs'], 'epoch')})"
        updates = f"{_counted(length['updates'], 'update')}{epochs}"
        minutes = _counted(self._budget.minutes, "minute")
        if self._budget.least > self._budget.minutes:
            return (
                f"Not even the {updates} that measure the speed fit into {minutes}: with files and the end of an "
                f"epoch they take {self._budget.least:.2g} minutes. A larger minutes= makes more."
            )
        if length["updates"] == self._most:
            return f"{updates} are all, as max_steps says; they fit into {minutes}."
        return (
            f"{updates} fit into {minutes}, at {self._budget.speed:.3g} in a second; "
            f"ends of epochs take {100 * self._budget.share:.0f} % of the time."
        )


def _counted(number: float, what: str) -> str:
    """1 epoch, 1,018 updates, 2.5 minutes."""
    return f"{number:,.10g} {what}{'s' if number != 1 else ''}"
