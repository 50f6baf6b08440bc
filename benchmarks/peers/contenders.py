"""Who runs: this package in each precision, and the peers, each able to do the same pieces of work."""

from __future__ import annotations

import importlib.util
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rust_diffusion as rd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.harness.files import CourseDataset, course_files
from benchmarks.harness.measure import wait
from benchmarks.peers import course

COURSE: dict[str, Any] = {
    "in_ch": 1,
    "base_ch": 64,
    "channel_mults": (1, 2, 4),
    "time_dim": 256,
    "dropout": 0.05,
    "attn_levels": (1, 2),
}
LEARNING_RATE, WEIGHT_DECAY, GRAD_CLIP, EMA_DECAY = 2e-4, 1e-4, 1.0, 0.9995


@dataclass
class Contender:
    """A name, a precision, a forward pass, and a way to make one training step."""

    name: str
    precision: str
    predict: Callable[[Tensor, Tensor], Tensor]
    #: (batch, betas, steps) -> seconds of each training step: t, eps, loss, backward, clip, AdamW, EMA.
    train: Callable[[Tensor, Tensor, int], list[float]]
    #: (samples, betas, steps or None for DDPM) -> images
    sample: Callable[[int, Tensor, int | None], Tensor]
    #: (folder of PNG files, betas, batch size): reads them and trains on each once.
    epoch: Callable[[Path, Tensor, int], None]


def ours(device: str, precision: str, size: int, **config: Any) -> Contender:
    """Return this package."""
    torch.manual_seed(0)
    model = rd.DiffusionUNet(**{**COURSE, **config}).to(device)
    predictor = rd.DiffusionUNet(**{**COURSE, **config}).to(device).eval()
    predictor.load_state_dict(model.state_dict())

    def predict(x: Tensor, t: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            return predictor(x, t)

    def train(batch: Tensor, betas: Tensor, steps: int) -> list[float]:
        starts: list[float] = []

        def batches() -> Iterator[Tensor]:
            # the engine asks for a batch when it is done with the one before
            for _ in range(steps + 1):
                wait(device)
                starts.append(time.perf_counter())
                if len(starts) <= steps:
                    yield batch

        options: dict[str, Any] = {
            "epochs": 1,
            "learning_rate": LEARNING_RATE,
            "precision": precision,
            "progress": False,
        }
        rd.train(model, batches, betas=betas, **options)
        return [end - start for start, end in itertools.pairwise(starts)]

    def epoch(folder: Path, betas: Tensor, batch_size: int) -> None:
        images = rd.load_images(course_files(folder), size, progress=False)
        options: dict[str, Any] = {"epochs": 1, "batch_size": batch_size, "learning_rate": LEARNING_RATE}
        rd.train(model, images, betas=betas, precision=precision, device=device, progress=False, **options)

    def sample(count: int, betas: Tensor, steps: int | None) -> Tensor:
        alphas = 1 - betas
        alpha_bars = alphas.cumprod(0)
        shape = (COURSE["in_ch"], size, size)
        if steps is None:
            return rd.ddpm_sample(
                predictor,
                count,
                shape,
                betas,
                alphas,
                alpha_bars,
                device,
                precision=precision,
                progress=False,
            )
        return rd.ddim_sample(
            predictor, count, shape, alpha_bars, device, steps, precision=precision, progress=False
        )

    return Contender(f"rust_diffusion {precision}", precision, predict, train, sample, epoch)


def plain(
    name: str, model: Any, device: str, size: int, *, bf16: bool = False, fused: bool = False
) -> Contender:
    """Return a PyTorch network in the course's own loops."""
    model = model.to(device)

    def autocast() -> torch.autocast:
        return torch.autocast(device, torch.bfloat16, enabled=bf16)

    def predict(x: Tensor, t: Tensor) -> Tensor:
        model.eval()
        with torch.no_grad(), autocast():
            return model(x, t)

    fused_adamw: dict[str, Any] = {"fused": True} if fused else {}
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY, **fused_adamw)
    shadow: list[Tensor] = []

    def step(batch: Tensor, alpha_bars: Tensor) -> None:
        t = torch.randint(0, len(alpha_bars), (len(batch),), device=device)
        noise = torch.randn_like(batch)
        bars = alpha_bars[t].reshape(-1, 1, 1, 1)
        optimizer.zero_grad(set_to_none=True)
        with autocast():
            loss = F.mse_loss(model(bars.sqrt() * batch + (1 - bars).sqrt() * noise, t).float(), noise)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), GRAD_CLIP)
        optimizer.step()
        with torch.no_grad():
            for average, p in zip(shadow, model.parameters(), strict=True):
                average.mul_(EMA_DECAY).add_(p, alpha=1 - EMA_DECAY)
        loss.item()

    def ready(betas: Tensor) -> Tensor:
        model.train()
        shadow[:] = shadow or [p.detach().clone() for p in model.parameters()]
        return (1 - betas).cumprod(0).to(device)

    def epoch(folder: Path, betas: Tensor, batch_size: int) -> None:
        alpha_bars = ready(betas)
        files = CourseDataset(folder, size)
        for batch in DataLoader(files, batch_size, shuffle=True, pin_memory=device == "cuda"):
            step(batch.to(device), alpha_bars)

    def train(batch: Tensor, betas: Tensor, steps: int) -> list[float]:
        alpha_bars = ready(betas)
        seconds = []
        for _ in range(steps):
            start = time.perf_counter()
            step(batch, alpha_bars)
            wait(device)
            seconds.append(time.perf_counter() - start)
        return seconds

    @torch.no_grad()
    def sample(count: int, betas: Tensor, steps: int | None) -> Tensor:
        alpha_bars = (1 - betas).cumprod(0).to(device)
        total = len(alpha_bars)
        grid = (
            list(range(total - 1, -1, -1))
            if steps is None
            else torch.linspace(total - 1, 0, steps).long().tolist()
        )
        x = torch.randn(count, COURSE["in_ch"], size, size, device=device)
        for k, following in zip(grid, [*grid[1:], None], strict=True):
            eps = predict(x, torch.full((count,), k, device=device)).float()
            bar = alpha_bars[k]
            x0 = ((x - (1 - bar).sqrt() * eps) / bar.sqrt()).clamp(-1, 1)
            if following is None:
                x = x0
            elif steps is not None:
                x = alpha_bars[following].sqrt() * x0 + (1 - alpha_bars[following]).sqrt() * eps
            else:
                before, beta = alpha_bars[k - 1], betas[k]
                mean = (
                    beta * before.sqrt() / (1 - bar) * x0 + (1 - before) * (1 - beta).sqrt() / (1 - bar) * x
                )
                x = mean + (beta * (1 - before) / (1 - bar)).clamp(min=1e-20).sqrt() * torch.randn_like(x)
        return x

    return Contender(name, "bf16" if bf16 else "fp32", predict, train, sample, epoch)


class _Attention(course.SelfAttention2d):
    """The course's attention through scaled_dot_product_attention, on its own weights."""

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        heads = self.attn.num_heads
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        qkv = F.linear(tokens, self.attn.in_proj_weight, self.attn.in_proj_bias)
        q, k, v = qkv.reshape(b, h * w, 3, heads, c // heads).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, h * w, c)
        return x + self.attn.out_proj(out).transpose(1, 2).reshape(b, c, h, w)


def hand_tuned(**config: Any) -> Any:
    """Return the course's network as an expert would write it in PyTorch: SDPA and channels_last."""
    model: Any = course.DiffusionUNet(**{**COURSE, **config})
    for module in model.modules():
        if isinstance(module, course.SelfAttention2d):
            module.__class__ = _Attention
    return model.to(memory_format=torch.channels_last)


def contenders(device: str, size: int, *, compiled: bool = True, **config: Any) -> list[Contender]:
    """List everybody, this package's float32 first and the course module in eager PyTorch second."""
    precisions = ["fp32", "bf16"]
    out = [ours(device, precisions[0], size, **config)]
    make = lambda: course.DiffusionUNet(**{**COURSE, **config})  # noqa: E731
    out.append(plain("course, eager", make(), device, size))
    out += [ours(device, precision, size, **config) for precision in precisions[1:]]
    if compiled:
        mode = "max-autotune" if device == "cuda" else "default"
        out.append(plain("course, torch.compile", torch.compile(make(), mode=mode), device, size))
    out.append(plain("hand-tuned PyTorch fp32", hand_tuned(**config), device, size, fused=True))
    out.append(plain("hand-tuned PyTorch bf16", hand_tuned(**config), device, size, bf16=True, fused=True))
    out += _installed_peers(device, size)
    return out


def _installed_peers(device: str, size: int) -> list[Contender]:
    """List the UNets of other packages, where they are installed, of about the course network's FLOPs.

    Of one 64 x 64 image, by torch's counter: course 12.5 GFLOP, diffusers 12.4, denoising-diffusion-pytorch 12.1.
    """
    out = []
    if importlib.util.find_spec("diffusers"):
        from diffusers import UNet2DModel

        unet = UNet2DModel(
            sample_size=size,
            in_channels=1,
            out_channels=1,
            block_out_channels=(64, 128, 256),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=32,
        )
        out.append(plain("diffusers UNet2DModel", _Unwrapped(unet), device, size))
    if importlib.util.find_spec("denoising_diffusion_pytorch"):
        from denoising_diffusion_pytorch import Unet

        out.append(
            plain("denoising-diffusion-pytorch", Unet(64, dim_mults=(1, 2, 4), channels=1), device, size)
        )
    return out


class _Unwrapped(nn.Module):
    """A diffusers network that answers with the tensor itself."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.unet(x, t).sample
