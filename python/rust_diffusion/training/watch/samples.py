"""A grid of samples every so many epochs, always from the same noise: how a run gets on, to look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from rust_diffusion.files import atomic
from rust_diffusion.model.card import card_of
from rust_diffusion.sampling.sampler import usual_steps
from rust_diffusion.sampling.solvers import dpmpp_sample
from rust_diffusion.sampling.straight import flow_sample
from rust_diffusion.view.pictures import grid

#: Images of a grid, and steps of the sampler: as many as it takes by itself.
_IMAGES, _STEPS = 16, usual_steps(dpmpp_sample)


class SampleSheets:
    """``{name}_samples/0005.png`` for epoch 5, counted from 1, and so on."""

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every

    def path(self, epoch: int) -> Path:
        """Where the sheet of an epoch (from 0) lies."""
        return self.folder / f"{epoch + 1:04}.png"

    def seconds(self, model: Any, shape: tuple[int, ...], betas: Tensor, now: Callable[[], float]) -> float:
        """What an epoch has to spend on its share of a sheet, by two steps of one."""
        start = now()
        self.draw(model, shape, betas, steps=2)
        return (now() - start) * min(_STEPS, len(betas)) / 2 / self.every

    def draw(self, model: Any, shape: tuple[int, ...], betas: Tensor, steps: int = _STEPS) -> Tensor:
        """Images of the averaged weights; no generator but their own is drawn from."""
        device = next(model.parameters()).device
        alpha_bars = torch.cumprod(1 - betas.detach().cpu().float(), 0)
        steps = min(steps, len(alpha_bars))
        card = card_of(model)
        if card is not None and card.objective == "flow":
            return flow_sample(model, _IMAGES, shape, device, steps, seed=0, progress=False)
        return dpmpp_sample(model, _IMAGES, shape, alpha_bars, device, steps, seed=0, progress=False)

    def leave(self, epoch: int, model: Any, shape: tuple[int, ...], betas: Tensor) -> None:
        """Write the sheet of an epoch (from 0), if it is one of those that get one."""
        if epoch < 0 or (epoch + 1) % self.every != 0:
            return
        images = self.draw(model, shape, betas)
        self.folder.mkdir(exist_ok=True)
        with atomic.replacing(self.path(epoch)) as file:
            Image.fromarray(grid(images)).save(file, "PNG")
