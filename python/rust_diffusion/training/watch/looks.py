"""What is looked at after an epoch: the loss on held-out images, and samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from rust_diffusion.training.batches import Batches
from rust_diffusion.training.network import channels_of
from rust_diffusion.training.state import State
from rust_diffusion.training.watch.samples import SampleSheets
from rust_diffusion.training.watch.validation import validation_loss


class Looks:
    """Both, or either, or none of them. Nothing that the run draws from is touched."""

    def __init__(
        self, val_batches: Batches | None, sheets: SampleSheets | None, betas: Tensor, objective: str
    ) -> None:
        self._val_batches, self._sheets = val_batches, sheets
        self._betas, self._objective = betas, objective
        self._shape: tuple[int, ...] = ()

    @property
    def validates(self) -> bool:
        """Whether there are held-out images."""
        return self._val_batches is not None

    def note_images(self, images: Tensor) -> None:
        """Remember what the samples are to look like."""
        self._shape = tuple(images.shape[1:])

    def validation_loss(self, model: nn.Module) -> float | None:
        """The loss on held-out images, if there are any."""
        if self._val_batches is None:
            return None
        return validation_loss(model, self._val_batches, self._betas, self._objective)

    def leave_samples(self, epoch: int, model: Any) -> None:
        """Write samples, if this epoch (from 0) gets any."""
        if self._sheets is not None:
            self._sheets.leave(epoch, model, self._shape, self._betas)

    def make_up(self, state: State) -> None:
        """Write the sheet of the last epoch, if the run was interrupted while that was drawn."""
        shadow, size = state.ema.shadow, state.cards[-1].image_size
        channels = channels_of(state.model)
        epoch = state.position["epoch"] - 1
        if self._sheets is not None and channels and size and not self._sheets.path(epoch).exists():
            self._sheets.leave(epoch, shadow, (channels, *size), self._betas)

    def seconds(self, state: State, now: Callable[[], float]) -> float:
        """What all this takes after an epoch, by trying."""
        start = now()
        self.validation_loss(state.model)
        spent = now() - start
        if self._sheets is not None:
            spent += self._sheets.seconds(state.ema.shadow, self._shape, self._betas, now)
        return spent
