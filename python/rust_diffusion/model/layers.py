"""The modules of a network's tree. They hold weights and rates; the engine computes with them."""

from __future__ import annotations

import functools
from typing import Any

from torch import nn


class ResBlock(nn.Module):
    """Weights of a residual block; the forward pass is the engine's."""


class SelfAttention2d(nn.Module):
    """Weights of self-attention over the positions of an image; the forward pass is the engine's."""


class Downsample(nn.Module):
    """Weights of a convolution of stride 2; the forward pass is the engine's."""


class Upsample(nn.Module):
    """Weights of the convolution after nearest doubling; the forward pass is the engine's."""


class Timesteps(nn.Module):
    """Sinusoids of the timestep: no weights."""


class TimestepEmbedding(nn.Module):
    """Weights of the time embedding of diffusers' networks."""


class DownBlock2D(nn.Module):
    """A level of diffusers' networks on the way down."""


class AttnDownBlock2D(nn.Module):
    """The same with attention."""


class UNetMidBlock2D(nn.Module):
    """The middle of diffusers' networks."""


class UpBlock2D(nn.Module):
    """A level of diffusers' networks on the way up."""


class AttnUpBlock2D(nn.Module):
    """The same with attention."""


class ResnetBlock2D(nn.Module):
    """Weights of a residual block of diffusers' networks."""


class Attention(nn.Module):
    """Weights of self-attention in diffusers' networks."""


class Downsample2D(nn.Module):
    """Weights of a convolution of stride 2 in diffusers' networks."""


class Upsample2D(nn.Module):
    """Weights of the convolution after nearest doubling in diffusers' networks."""


#: The engine's plan names modules by the class that `print(model)` shows.
_CLASSES: dict[str, Any] = {
    "MultiheadAttention": functools.partial(nn.MultiheadAttention, batch_first=True),
    **{
        kind.__name__: kind
        for kind in (
            nn.Conv2d,
            nn.Dropout,
            nn.GroupNorm,
            nn.Identity,
            nn.Linear,
            nn.ModuleList,
            nn.Sequential,
            nn.SiLU,
            ResBlock,
            SelfAttention2d,
            Downsample,
            Upsample,
            Timesteps,
            TimestepEmbedding,
            DownBlock2D,
            AttnDownBlock2D,
            UNetMidBlock2D,
            UpBlock2D,
            AttnUpBlock2D,
            ResnetBlock2D,
            Attention,
            Downsample2D,
            Upsample2D,
        )
    },
}


def module_of(class_name: str, arguments: dict[str, Any]) -> nn.Module:
    """Make a module of the tree, with initial weights as torch draws them."""
    made: nn.Module = _CLASSES[class_name](**arguments)
    return made
