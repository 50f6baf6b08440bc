"""The course's model, samplers and training loop in plain PyTorch: the judge of the other tests.

Written from the contract alone, as plainly as possible; the network, plain PyTorch too, is the benchmark's:
where the package is fast or careful, this file is short.
"""

import copy
import itertools
import math

import torch
import torch.nn.functional as F
from torch import nn

# --------------------------------------------------------------------------------------------------
# Schedules and closed forms
# --------------------------------------------------------------------------------------------------


def cosine_beta_schedule(num_steps, s=0.008):
    """Nichol and Dhariwal (2021), equation 17."""
    x = torch.linspace(0, num_steps, num_steps + 1, dtype=torch.float32)
    f = torch.cos(((x / num_steps + s) / (1 + s)) * math.pi / 2) ** 2
    abar = f / f[0]
    return torch.clamp(1 - abar[1:] / abar[:-1], 1e-5, 0.999)


def linear_beta_schedule(num_steps, beta_start=1e-4, beta_end=0.02):
    """Ho, Jain and Abbeel (2020), section 4."""
    return torch.linspace(beta_start, beta_end, num_steps, dtype=torch.float32)


def extract(coefficients, t, x_shape):
    return coefficients.to(t.device)[t].reshape(t.shape[0], *[1] * (len(x_shape) - 1))


def q_sample(x0, t, noise, alpha_bars):
    abar = extract(alpha_bars, t, x0.shape)
    return abar.sqrt() * x0 + (1 - abar).sqrt() * noise


def predict_x0_from_eps(x_t, eps_pred, t, alpha_bars):
    abar = extract(alpha_bars, t, x_t.shape)
    return (x_t - (1 - abar).sqrt() * eps_pred) / abar.sqrt()


def denormalize_to_01(x):
    return ((x + 1) / 2).clamp(0, 1)


# --------------------------------------------------------------------------------------------------
# The denoiser: the peer that the benchmark measures against, in plain PyTorch, is the judge here
# --------------------------------------------------------------------------------------------------

from benchmarks.peers.course import DiffusionUNet, sinusoidal_embedding  # noqa: E402, F401


class EMA:
    def __init__(self, model, decay=0.9999):
        self.decay = decay
        self.shadow = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model):
        for shadow, weight in zip(self.shadow.parameters(), model.parameters(), strict=True):
            shadow.mul_(self.decay).add_(weight, alpha=1 - self.decay)

    def state_dict(self):
        return {"decay": self.decay, "shadow": self.shadow.state_dict()}

    def load_state_dict(self, state):
        self.decay = state["decay"]
        self.shadow.load_state_dict(state["shadow"])


# --------------------------------------------------------------------------------------------------
# Samplers
# --------------------------------------------------------------------------------------------------


@torch.no_grad()
def ddpm_sample(model, num_samples, image_shape, betas, alphas, alpha_bars, device):
    """Ho, Jain and Abbeel (2020), algorithm 2, with x0 clamped and the posterior variance of equation 7."""
    betas, alphas, alpha_bars = (c.to(device) for c in (betas, alphas, alpha_bars))
    x = torch.randn(num_samples, *image_shape, device=device)
    for k in range(len(betas) - 1, -1, -1):
        t = torch.full((num_samples,), k, device=device, dtype=torch.long)
        x0 = predict_x0_from_eps(x, model(x, t), t, alpha_bars).clamp(-1, 1)
        abar = alpha_bars[k]
        abar_before = alpha_bars[k - 1] if k > 0 else torch.ones((), device=device)
        mean = (
            betas[k] * abar_before.sqrt() / (1 - abar) * x0
            + (1 - abar_before) * alphas[k].sqrt() / (1 - abar) * x
        )
        if k > 0:
            variance = (betas[k] * (1 - abar_before) / (1 - abar)).clamp(min=1e-20)
            x = mean + variance.sqrt() * torch.randn_like(x)
        else:
            x = mean
    return x.clamp(-1, 1)


@torch.no_grad()
def ddim_sample(
    model, num_samples, image_shape, alpha_bars, device, sample_steps=50, eta=0.0, timesteps=None
):
    """Song, Meng and Ermon (2021), equations 12 and 16, with x0 clamped."""
    alpha_bars = alpha_bars.to(device)
    if timesteps is None:
        timesteps = torch.linspace(len(alpha_bars) - 1, 0, sample_steps).long().tolist()
    x = torch.randn(num_samples, *image_shape, device=device)
    for k, s in itertools.pairwise(timesteps):
        t = torch.full((num_samples,), k, device=device, dtype=torch.long)
        eps = model(x, t)
        x0 = predict_x0_from_eps(x, eps, t, alpha_bars).clamp(-1, 1)
        abar_k, abar_s = alpha_bars[k], alpha_bars[s]
        sigma = eta * ((1 - abar_s) / (1 - abar_k) * (1 - abar_k / abar_s)).sqrt()
        z = torch.randn_like(x) if eta > 0 else torch.zeros_like(x)
        x = abar_s.sqrt() * x0 + (1 - abar_s - sigma**2).clamp(min=0).sqrt() * eps + sigma * z
    t = torch.full((num_samples,), timesteps[-1], device=device, dtype=torch.long)
    return predict_x0_from_eps(x, model(x, t), t, alpha_bars).clamp(-1, 1)


# --------------------------------------------------------------------------------------------------
# The course's training loop
# --------------------------------------------------------------------------------------------------


def course_loop(
    model,
    loader,
    betas,
    *,
    epochs,
    ema,
    learning_rate=2e-4,
    weight_decay=1e-4,
    ema_decay=0.9995,
    grad_clip=1.0,
    resume=None,
    stop_after=None,
    autocast=None,
    scaler_enabled=False,
    device="cpu",
):
    """Train `model` in place as the course does; returns (losses of every step, checkpoint dict).

    `resume` is a checkpoint dict to go on from, `stop_after` the number of epochs after which to stop early
    (the learning rate's cosine still spans `epochs`), `autocast` a dtype or None.
    """
    alpha_bars = torch.cumprod(1 - betas, dim=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    scaler = torch.amp.GradScaler(device, enabled=scaler_enabled)
    history, losses, first, best_loss = [], [], 0, float("inf")
    if resume is not None:
        model.load_state_dict(resume["model"])
        ema.load_state_dict(resume["ema"])
        optimizer.load_state_dict(resume["optimizer"])
        scheduler.load_state_dict(resume["scheduler"])
        scaler.load_state_dict(resume["scaler"])
        history, best_loss = list(resume["history"]), resume["best_loss"]
        first = resume["epoch"] + 1

    checkpoint = None
    for epoch in range(first, epochs if stop_after is None else min(epochs, stop_after)):
        model.train()
        total = 0.0
        for x0 in loader:
            x0 = x0.to(device)
            t = torch.randint(0, len(betas), (x0.shape[0],), device=device)
            noise = torch.randn_like(x0)
            x_t = q_sample(x0, t, noise, alpha_bars)

            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, dtype=autocast or torch.bfloat16, enabled=autocast is not None):
                loss = F.mse_loss(model(x_t, t), noise)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
            scaler.step(optimizer)
            scaler.update()
            ema.update(model)

            losses.append(loss.item())
            total += losses[-1]

        history.append(total / len(loader))
        scheduler.step()
        best_loss = min(best_loss, history[-1])
        checkpoint = {
            "epoch": epoch,
            "model": model.state_dict(),
            "ema": ema.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
            "scaler": scaler.state_dict(),
            "history": history,
            "best_loss": best_loss,
            "config": {
                "target_epochs": epochs,
                "learning_rate": learning_rate,
                "weight_decay": weight_decay,
                "ema_decay": ema_decay,
                "grad_clip": grad_clip,
                "num_diffusion_steps": len(betas),
            },
        }
    return losses, checkpoint
