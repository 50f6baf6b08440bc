"""The course's network in plain PyTorch: the peer to be faster than, and the judge of the tests.

Written from its description; nothing here uses the engine.
"""
# ruff: noqa: D101, D103
# mypy: ignore-errors

import math

import torch
import torch.nn.functional as F
from torch import nn


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
