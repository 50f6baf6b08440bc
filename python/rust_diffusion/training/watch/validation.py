"""The loss on images that are held out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rust_diffusion import _native
from rust_diffusion.support import random
from rust_diffusion.training.batches import Batches
from rust_diffusion.training.network import predict

#: The same timesteps and noise after every epoch, so that only the weights make a difference.
_SEED = 20_000


@torch.no_grad()
def validation_loss(model: nn.Module, batches: Batches, betas: Tensor, objective: str) -> float:
    """Mean squared error of the model (not of its average), image by image, without dropout and loss weights.

    torch's random state is left as it was.
    """
    device = next(model.parameters()).device
    before = random.capture(device, batches.generators)
    model.eval()
    try:
        total, count = 0.0, 0
        generator = torch.Generator().manual_seed(_SEED)
        for share in batches.epoch(0, 0, lambda: None):
            batches.check_range(share.images)
            images = share.images.cpu()
            t = torch.randint(len(betas), (len(images),), generator=generator)
            noise = torch.randn(images.shape, generator=generator, dtype=torch.float32)
            x_t, shown, target = _native.noised(images, t, noise, betas, objective)
            prediction = predict(model, x_t.to(device), shown.to(device)).float()
            total += F.mse_loss(prediction, target.to(device)).item() * len(images)
            count += len(images)
    finally:
        model.train()
        random.restore(before, device, batches.generators)
    if count == 0:
        raise ValueError("val_data gave no batch; it must give its batches anew in every epoch")
    return total / count
