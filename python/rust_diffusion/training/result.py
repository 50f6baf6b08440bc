"""What `train` tells and gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rust_diffusion.model.ema import EMA

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class EpochInfo(NamedTuple):
    """What `train`'s callback is told after each epoch, once the files are written."""

    #: From 0.
    epoch: int
    #: Mean loss of the epoch's batches.
    loss: float
    #: The learning rate of the epoch.
    lr: float
    images_per_second: float
    ema: EMA
    #: Mean loss on `val_data`, if there are any.
    val_loss: float | None = None
    #: How many epochs the run is to have; None while a run in `minutes` has not settled that, or where data do not say.
    epochs: int | None = None


@dataclass
class TrainResult:
    """A training run: its losses, its averaged weights and its files."""

    #: Mean loss of each epoch, over all sessions of the run.
    history: list[float]
    #: The smallest of them; infinity before the first epoch is over.
    best_loss: float
    ema: EMA
    #: Epochs that this call trained.
    epochs_run: int
    #: What was computed in: "fp32", "bf16" or "fp16".
    precision: str
    #: Mean loss on `val_data` after each epoch; empty without.
    val_history: list[float | None] = field(default_factory=list)
    #: Updates left out under fp16 because a gradient was not finite.
    skipped_steps: int = 0
    #: Changes of the weights, over all sessions.
    updates: int = 0
    #: Over the whole of this call, validation and files left out.
    images_per_second: float = 0.0
    #: The files of the run, by what they hold: "checkpoint", "ema", "raw".
    paths: dict[str, Path] = field(default_factory=dict)

    @property
    def initial_share(self) -> float | None:
        """The share of the averaged weights that is still the random beginning; None if not known."""
        return self.ema.initial_share

    def plot(self) -> Figure:
        """Draw the losses over the epochs."""
        import matplotlib.pyplot as plt
        from matplotlib.ticker import MaxNLocator

        figure, axis = plt.subplots(figsize=(5, 3))
        axis.plot(range(1, len(self.history) + 1), self.history, marker=".", label="training")
        measured = [(k + 1, loss) for k, loss in enumerate(self.val_history) if loss is not None]
        if measured:
            axis.plot(*zip(*measured, strict=True), marker=".", label="validation")
            axis.legend()
        axis.set(xlabel="Epoch", ylabel="Loss", title="Training loss")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        figure.tight_layout()
        return figure

    def _rows(self) -> list[tuple[str, str]]:
        rows = [("epochs in this call", str(self.epochs_run)), ("epochs in all", str(len(self.history)))]
        rows += [("updates in all", str(self.updates))]
        if self.history:
            rows += [("last loss", f"{self.history[-1]:.5f}"), ("best loss", f"{self.best_loss:.5f}")]
        if any(loss is not None for loss in self.val_history):
            rows += [("best validation loss", f"{min(v for v in self.val_history if v is not None):.5f}")]
        rows += [("precision", self.precision)]
        if self.images_per_second:
            rows += [("images per second", f"{self.images_per_second:.1f}")]
        if self.skipped_steps:
            rows += [("skipped steps", str(self.skipped_steps))]
        if self.initial_share is not None:
            rows += [("initial weights left in the EMA", f"{100 * self.initial_share:.3g} %")]
        return rows + [(f"{what} file", str(path)) for what, path in self.paths.items()]

    def __repr__(self) -> str:
        return "TrainResult(" + ", ".join(f"{name}: {value}" for name, value in self._rows()) + ")"

    def _repr_html_(self) -> str:
        left = "style='text-align:left'"
        cells = "".join(
            f"<tr><th {left}>{escape(name)}</th><td {left}>{escape(value)}</td></tr>"
            for name, value in self._rows()
        )
        return f"<table>{cells}</table>"
