"""The run's files: where they lie, and in which order they are written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rust_diffusion.files import checkpoint, weights
from rust_diffusion.training.state import State

#: What an epoch writes, in checkpoints: the two files of weights have half of what one has.
WITH_WEIGHTS = 1.5


@dataclass
class Files:
    """Where a run keeps its files, if it keeps any."""

    folder: Path | None
    name: str

    def path(self, suffix: str) -> Path:
        """The path of one of them."""
        assert self.folder is not None
        return self.folder / f"{self.name}{suffix}"

    def paths(self) -> dict[str, Path]:
        """Those that exist, by what they hold."""
        if self.folder is None:
            return {}
        kinds = {"checkpoint": ".ckpt", "ema": ".pth", "raw": "_raw.pth"}
        return {kind: self.path(suffix) for kind, suffix in kinds.items() if self.path(suffix).exists()}


class Keeper:
    """Writes the files of a run, on one process and only if there is a folder for them."""

    def __init__(self, files: Files, state: State, active: bool) -> None:
        self.files, self._state = files, state
        self.active = active and files.folder is not None
        #: Where the run was when its checkpoint was written.
        self.position: dict[str, Any] | None = None
        #: Whether writing failed: another attempt would fail too.
        self.failed = False

    def keep_epoch(self, save_checkpoint: Callable[[], None]) -> None:
        """Write what an epoch leaves."""
        if not self.active:
            return
        self.failed = True
        # The checkpoint first: averaged weights without one would pass for a run that is finished.
        save_checkpoint()
        if self._state.last_is_best:
            self.save_weights()
        self.failed = False

    def save_checkpoint(self, random: dict[str, Any], order_seed: int | None) -> None:
        """Write ``{name}.ckpt``."""
        checkpoint.save(self._state.to_checkpoint(random, order_seed), self.files.path(".ckpt"))
        self.position = self._state.position

    def save_weights(self) -> None:
        """Write the two weight files."""
        weights.save(self._state.model, self.files.path("_raw.pth"))
        weights.save(self._state.ema.shadow, self.files.path(".pth"))

    def place(self) -> str:
        """Where an interrupted run stopped, and whether it can go on."""
        position = self._state.position
        place = f"stopped in epoch {position['epoch'] + 1}, after {position['batch']} batches of it"
        if self.position is None:
            return f"{place}; nothing was saved"
        return f"{place}; the same call goes on from {self.files.path('.ckpt')}"

    def complete_weights(self) -> None:
        """Write the best epoch's weights if a run may have been killed between its checkpoint and them."""
        state = self._state
        if self.active and state.last_is_best and state.position["batch"] == 0:
            self.save_weights()

    def ensure_weights(self) -> None:
        """Write the weights of a run that ended before an epoch was over."""
        # those that are there may be of an earlier, shorter stop in the same epoch
        if self.active and not (self._state.history and self.files.path(".pth").exists()):
            self.save_weights()
