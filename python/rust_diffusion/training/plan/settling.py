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
        self._per_epoch = None if batches is None else -(-batches // state.settings.accumulate)

    def length(self) -> Length | None:
        """The run's length, once enough is measured; to be asked after each update."""
        updates, most = self._state.position["updates"], self._state.settings.max_steps
        if not self._budget.has_measured(updates):
            return None
        length = self._budget.length(updates, self._per_epoch, self._seconds_of_an_end())
        if most is not None:
            length["updates"] = min(length["updates"], most)
        return length

    def _seconds_of_an_end(self) -> float:
        """What the end of an epoch takes, by doing it: files, validation, samples."""
        start = self._budget.now()
        if self._save is not None:
            self._save()
        files = (self._budget.now() - start) * WITH_WEIGHTS
        return files + self._looks.seconds(self._state, self._budget.now)

    def in_words(self, length: Length) -> str:
        """A line about the length that was found."""
        return (
            f"{length['updates']:,} updates ({length['epochs']} epochs) fit into {self._budget.minutes:g} "
            f"minute{'s' if self._budget.minutes != 1 else ''}, at "
            f"{self._budget.speed:.3g} in a second; ends of epochs take {100 * self._budget.share:.0f} % of the time."
        )
