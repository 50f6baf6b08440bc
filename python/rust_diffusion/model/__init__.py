"""The denoiser, the averages of its weights, and what it says of itself."""

from rust_diffusion.model.card import ModelCard
from rust_diffusion.model.ema import EMA
from rust_diffusion.model.layers import Downsample, ResBlock, SelfAttention2d, Upsample
from rust_diffusion.model.network import Network
from rust_diffusion.model.reading import as_eps
from rust_diffusion.model.unet import DiffusionUNet
from rust_diffusion.model.unet2d import UNet2DModel

__all__ = [
    "EMA",
    "DiffusionUNet",
    "Downsample",
    "ModelCard",
    "Network",
    "ResBlock",
    "SelfAttention2d",
    "UNet2DModel",
    "Upsample",
    "as_eps",
]
