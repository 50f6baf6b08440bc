"""A PyTorch network in the loops that the course writes by hand."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.harness.files import CourseDataset
from benchmarks.harness.measure import wait
from benchmarks.peers.contender import (
    COURSE,
    EMA_DECAY,
    GRAD_CLIP,
    LEARNING_RATE,
    WEIGHT_DECAY,
    Contender,
)
from benchmarks.peers.loops import drawn


class Plain(Contender):
    """Any network `(x, t) -> eps`; `bf16` under autocast, `fused` with torch's fused AdamW."""

    def __init__(
        self, name: str, model: Any, device: str, size: int, *, bf16: bool = False, fused: bool = False
    ) -> None:
        super().__init__(name, "bf16" if bf16 else "fp32")
        self.model = model.to(device)
        self.device, self.size = device, size
        how: dict[str, Any] = {"fused": True} if fused else {}
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY, **how
        )
        self.shadow: list[Tensor] = []

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")

    def predict(self, x: Tensor, t: Tensor) -> Tensor:
        """A forward pass."""
        self.model.eval()
        with torch.no_grad(), self._autocast():
            return self.model(x, t)

    def train(self, batch: Tensor, betas: Tensor, steps: int) -> list[float]:
        """Time each step."""
        alpha_bars = self._ready(betas)
        seconds = []
        for _ in range(steps):
            start = time.perf_counter()
            self._step(batch, alpha_bars)
            wait(self.device)
            seconds.append(time.perf_counter() - start)
        return seconds

    def epoch(self, folder: Path, betas: Tensor, batch_size: int) -> None:
        """Read with the course's data set, and train."""
        alpha_bars = self._ready(betas)
        files = CourseDataset(folder, self.size)
        for batch in DataLoader(files, batch_size, shuffle=True, pin_memory=self.device == "cuda"):
            self._step(batch.to(self.device), alpha_bars)

    def _ready(self, betas: Tensor) -> Tensor:
        self.model.train()
        self.shadow = self.shadow or [p.detach().clone() for p in self.model.parameters()]
        return (1 - betas).cumprod(0).to(self.device)

    def _step(self, batch: Tensor, alpha_bars: Tensor) -> None:
        t = torch.randint(0, len(alpha_bars), (len(batch),), device=self.device)
        noise = torch.randn_like(batch)
        bars = alpha_bars[t].reshape(-1, 1, 1, 1)
        self.optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            prediction = self.model(bars.sqrt() * batch + (1 - bars).sqrt() * noise, t)
            loss = F.mse_loss(prediction.float(), noise)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), GRAD_CLIP)
        self.optimizer.step()
        with torch.no_grad():
            for average, p in zip(self.shadow, self.model.parameters(), strict=True):
                average.mul_(EMA_DECAY).add_(p, alpha=1 - EMA_DECAY)
        loss.item()

    def sample(self, count: int, betas: Tensor, steps: int | None) -> Tensor:
        """Draw by the course's loops."""
        return drawn(
            self.predict, (count, COURSE["in_ch"], self.size, self.size), betas.to(self.device), steps
        )
