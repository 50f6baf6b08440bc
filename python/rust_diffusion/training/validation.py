"""The loss on images that are held out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rust_diffusion import _native
from rust_diffusion.model.unet import DiffusionUNet
from rust_diffusion.support import random
from rust_diffusion.support.images import as_values
from rust_diffusion.training.batches import Batches

#: The same timesteps and noise after every epoch, so that only the weights make a difference.
_SEED = 20_000


@torch.no_grad()
def validation_loss(model: DiffusionUNet, batches: Batches, betas: Tensor, objective: str) -> float:
    """Mean squared error of the model (not of its average), image by image, without dropout and loss weights.

    torch's random state is left as it was.
    """
    device = next(model.parameters()).device
    before = random.capture(device, batches.generators)
    model.eval()
    try:
        total, count = 0.0, 0
        generator = torch.Generator().manual_seed(_SEED)
        alpha_bars = torch.cumprod(1 - betas.detach().cpu().float(), 0)
        for share in batches.epoch(0, 0, lambda: None):
            x0 = as_values(share.images).cpu()
            t = torch.randint(len(alpha_bars), (len(x0),), generator=generator)
            noise = torch.randn(x0.shape, generator=generator)
            total += _error(model, x0, t, noise, alpha_bars, objective) * len(x0)
            count += len(x0)
    finally:
        model.train()
        random.restore(before, device, batches.generators)
    if count == 0:
        raise ValueError("val_data gave no batch; it must give its batches anew in every epoch")
    return total / count


def _error(
    model: DiffusionUNet, x0: Tensor, t: Tensor, noise: Tensor, alpha_bars: Tensor, objective: str
) -> float:
    device = next(model.parameters()).device
    x_t = _native.q_sample(x0, t, noise, alpha_bars)
    target = noise
    if objective == "x0":
        target = x0
    elif objective == "v":
        signal, spread = (
            _native.extract(values, t, list(x0.shape))
            for values in (alpha_bars.sqrt(), (1 - alpha_bars).sqrt())
        )
        target = signal * noise - spread * x0
    return F.mse_loss(model(x_t.to(device), t.to(device)).float(), target.to(device)).item()
