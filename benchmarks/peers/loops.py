"""Drawing as the course writes it: a loop in Python around any prediction of the noise."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


@torch.no_grad()
def drawn(
    predict: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...], betas: Tensor, steps: int | None
) -> Tensor:
    """Draw by DDIM with so many steps (Song et al. 2021), or by DDPM if `steps` is None (Ho et al. 2020)."""
    device = betas.device
    alpha_bars = (1 - betas).cumprod(0)
    total = len(alpha_bars)
    grid = torch.arange(total - 1, -1, -1) if steps is None else torch.linspace(total - 1, 0, steps).long()
    timesteps = grid.tolist()
    x = torch.randn(shape, device=device)
    for k, following in zip(timesteps, [*timesteps[1:], None], strict=True):
        eps = predict(x, torch.full(shape[:1], k, device=device)).float()
        bar = alpha_bars[k]
        x0 = ((x - (1 - bar).sqrt() * eps) / bar.sqrt()).clamp(-1, 1)
        if following is None:
            x = x0
        elif steps is None:
            x = _ancestral(x, x0, betas[k], bar, alpha_bars[k - 1])
        else:
            x = alpha_bars[following].sqrt() * x0 + (1 - alpha_bars[following]).sqrt() * eps
    return x


def _ancestral(x: Tensor, x0: Tensor, beta: Tensor, bar: Tensor, before: Tensor) -> Tensor:
    """Draw from the posterior of DDPM, equations 6 and 7 of Ho et al. 2020."""
    mean = beta * before.sqrt() / (1 - bar) * x0 + (1 - before) * (1 - beta).sqrt() / (1 - bar) * x
    return mean + (beta * (1 - before) / (1 - bar)).clamp(min=1e-20).sqrt() * torch.randn_like(x)
