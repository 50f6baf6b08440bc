"""Who runs: this package in each precision, and the peers, each able to do the same pieces of work."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers import course
from benchmarks.peers.contender import COURSE, Contender
from benchmarks.peers.exported import exported
from benchmarks.peers.ours import Ours
from benchmarks.peers.plain import Plain

__all__ = ["Unwrapped", "contenders", "hand_tuned"]


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
    out: list[Contender] = [Ours(device, precisions[0], size, **config)]
    make = lambda: course.DiffusionUNet(**{**COURSE, **config})  # noqa: E731
    out.append(Plain("course, eager", make(), device, size))
    out += [Ours(device, precision, size, **config) for precision in precisions[1:]]
    if compiled:
        mode = "max-autotune" if device == "cuda" else "default"
        out.append(Plain("course, torch.compile", torch.compile(make(), mode=mode), device, size))
    out.append(Plain("hand-tuned PyTorch fp32", hand_tuned(**config), device, size, fused=True))
    out.append(Plain("hand-tuned PyTorch bf16", hand_tuned(**config), device, size, bf16=True, fused=True))
    out += exported(make, size) if device == "cpu" else []
    out += _installed_peers(device, size)
    return out


def _installed_peers(device: str, size: int) -> list[Contender]:
    """List the UNets of other packages, where they are installed, of about the course network's FLOPs.

    Of one 64 x 64 image, by torch's counter: course 12.5 GFLOP, diffusers 12.4, denoising-diffusion-pytorch 12.1.
    """
    out: list[Contender] = []
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
        out.append(Plain("diffusers UNet2DModel", Unwrapped(unet), device, size))
    if importlib.util.find_spec("denoising_diffusion_pytorch"):
        from denoising_diffusion_pytorch import Unet

        out.append(
            Plain("denoising-diffusion-pytorch", Unet(64, dim_mults=(1, 2, 4), channels=1), device, size)
        )
    for contender in out:
        contender.is_course = False
    return out


class Unwrapped(nn.Module):
    """A diffusers network that answers with the tensor itself."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.unet(x, t).sample
