"""The denoiser, the averages of its weights, and what it says of itself."""

from rust_diffusion.model.card import ModelCard
from rust_diffusion.model.device import get_device
from rust_diffusion.model.ema import EMA
from rust_diffusion.model.unet import DiffusionUNet, Downsample, ResBlock, SelfAttention2d, Upsample

__all__ = [
    "EMA",
    "DiffusionUNet",
    "Downsample",
    "ModelCard",
    "ResBlock",
    "SelfAttention2d",
    "Upsample",
    "get_device",
]
