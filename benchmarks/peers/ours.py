"""rust_diffusion itself, as it is called in each precision."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rust_diffusion as rd
import torch
from torch import Tensor

from benchmarks.harness.files import course_files
from benchmarks.harness.measure import wait
from benchmarks.peers.contender import COURSE, LEARNING_RATE, Contender


class Ours(Contender):
    """The course's network in this package; `config` changes it."""

    def __init__(self, device: str, precision: str, size: int, **config: Any) -> None:
        super().__init__(f"rust_diffusion {precision}", precision)
        self.device, self.size = device, size
        torch.manual_seed(0)
        self.model = self.network(**config).to(device)
        self.predictor = self.network(**config).to(device).eval()
        self.predictor.load_state_dict(self.model.state_dict())

    @staticmethod
    def network(**config: Any) -> Any:
        """Make the network that runs."""
        return rd.DiffusionUNet(**{**COURSE, **config})

    def predict(self, x: Tensor, t: Tensor) -> Tensor:
        """A forward pass."""
        with torch.no_grad(), torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.predictor(x, t)

    def train(self, batch: Tensor, betas: Tensor, steps: int) -> list[float]:
        """Time each step of `train`."""
        starts: list[float] = []

        def batches() -> Iterator[Tensor]:
            # the engine asks for a batch when it is done with the one before
            for _ in range(steps + 1):
                wait(self.device)
                starts.append(time.perf_counter())
                if len(starts) <= steps:
                    yield batch

        rd.train(self.model, batches, betas=betas, **self._options())
        return [end - start for start, end in itertools.pairwise(starts)]

    def epoch(self, folder: Path, betas: Tensor, batch_size: int) -> None:
        """Read with `load_images`, and train."""
        images = rd.load_images(course_files(folder), self.size, progress=False)
        rd.train(
            self.model, images, betas=betas, batch_size=batch_size, device=self.device, **self._options()
        )

    def _options(self) -> dict[str, Any]:
        return {
            "epochs": 1,
            "learning_rate": LEARNING_RATE,
            "precision": self.precision,
            "progress": False,
        }

    def sample(self, count: int, betas: Tensor, steps: int | None) -> Tensor:
        """Draw by `ddim_sample` or `ddpm_sample`."""
        alphas = 1 - betas
        alpha_bars = alphas.cumprod(0)
        shape = (COURSE["in_ch"], self.size, self.size)
        how: dict[str, Any] = {"precision": self.precision, "progress": False}
        if steps is None:
            return rd.ddpm_sample(self.predictor, count, shape, betas, alphas, alpha_bars, self.device, **how)
        return rd.ddim_sample(self.predictor, count, shape, alpha_bars, self.device, steps, **how)
