"""The course's model, samplers and training loop in plain PyTorch: the judge of the other tests.

Written from the contract alone, with nothing imported from rust_diffusion, and as plainly as possible:
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
# The denoiser
# --------------------------------------------------------------------------------------------------


def sinusoidal_embedding(t, dim):
    half = dim // 2
    w = torch.exp(torch.arange(half, dtype=torch.float32, device=t.device) * (-math.log(10000.0) / half))
    angle = t.float()[:, None] * w[None, :]
    emb = torch.cat([angle.sin(), angle.cos()], dim=1)
    return F.pad(emb, (0, 1)) if dim % 2 else emb


def group_norm(channels):
    groups = max(g for g in range(1, 33) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


class ResBlock(nn.Module):
    def __init__(self, in_ch, out_ch, time_dim, dropout):
        super().__init__()
        self.norm1 = group_norm(in_ch)
        self.act1 = nn.SiLU()
        self.conv1 = nn.Conv2d(in_ch, out_ch, 3, padding=1)
        self.time_proj = nn.Sequential(nn.SiLU(), nn.Linear(time_dim, out_ch))
        self.norm2 = group_norm(out_ch)
        self.act2 = nn.SiLU()
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_ch, out_ch, 3, padding=1)
        self.skip = nn.Identity() if in_ch == out_ch else nn.Conv2d(in_ch, out_ch, 1)

    def forward(self, x, emb):
        h = self.conv1(self.act1(self.norm1(x)))
        h = h + self.time_proj(emb)[:, :, None, None]
        h = self.conv2(self.dropout(self.act2(self.norm2(h))))
        return h + self.skip(x)


class SelfAttention2d(nn.Module):
    def __init__(self, channels, num_heads):
        super().__init__()
        self.norm = group_norm(channels)
        self.attn = nn.MultiheadAttention(channels, num_heads, batch_first=True)

    def forward(self, x):
        batch, channels, height, width = x.shape
        tokens = self.norm(x).reshape(batch, channels, height * width).transpose(1, 2)
        mixed, _ = self.attn(tokens, tokens, tokens)
        return x + mixed.transpose(1, 2).reshape(batch, channels, height, width)


class Downsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x):
        return self.conv(x)


class Upsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class DiffusionUNet(nn.Module):
    def __init__(
        self,
        in_ch=1,
        base_ch=64,
        channel_mults=(1, 2, 4),
        time_dim=256,
        dropout=0.1,
        attn_levels=(1, 2),
        num_heads=4,
    ):
        super().__init__()
        self.time_dim = time_dim
        widths = [base_ch * mult for mult in channel_mults]
        last = len(widths) - 1

        def stage(level, channels_in):
            """Block 1, block 2 and the attention of a level, drawing their weights in that order."""
            width = widths[level]
            return nn.ModuleList(
                [
                    ResBlock(channels_in, width, time_dim, dropout),
                    ResBlock(width, width, time_dim, dropout),
                    SelfAttention2d(width, num_heads) if level in attn_levels else nn.Identity(),
                ]
            )

        self.init = nn.Conv2d(in_ch, base_ch, 3, padding=1)
        self.time_mlp = nn.Sequential(
            nn.Linear(time_dim, 4 * time_dim), nn.SiLU(), nn.Linear(4 * time_dim, time_dim)
        )

        self.down_blocks = nn.ModuleList()
        self.downsamples = nn.ModuleList()
        channels = base_ch
        for level, width in enumerate(widths):
            self.down_blocks.append(stage(level, channels))
            if level < last:
                self.downsamples.append(Downsample(width))
            channels = width

        self.mid_block1 = ResBlock(channels, channels, time_dim, dropout)
        self.mid_attn = SelfAttention2d(channels, num_heads)
        self.mid_block2 = ResBlock(channels, channels, time_dim, dropout)

        self.up_blocks = nn.ModuleList()
        self.upsamples = nn.ModuleList()
        for level in range(last, -1, -1):
            self.up_blocks.append(stage(level, channels + widths[level]))
            channels = widths[level]
            if level > 0:
                self.upsamples.append(Upsample(channels))

        self.out_norm = group_norm(channels)
        self.out_act = nn.SiLU()
        self.out_conv = nn.Conv2d(channels, in_ch, 3, padding=1)

    def forward(self, x, t):
        dtype = self.time_mlp[0].weight.dtype  # float32, unless the whole module was moved to float64
        emb = self.time_mlp(sinusoidal_embedding(t, self.time_dim).to(dtype))
        h = self.init(x)

        skips = []
        for level, (block1, block2, attention) in enumerate(self.down_blocks):
            h = attention(block2(block1(h, emb), emb))
            skips.append(h)
            if level < len(self.downsamples):
                h = self.downsamples[level](h)

        h = self.mid_block2(self.mid_attn(self.mid_block1(h, emb)), emb)

        for level, (block1, block2, attention) in enumerate(self.up_blocks):
            if level > 0:
                h = self.upsamples[level - 1](h)
            h = torch.cat([h, skips.pop()], dim=1)
            h = attention(block2(block1(h, emb), emb))

        return self.out_conv(self.out_act(self.out_norm(h)))


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
