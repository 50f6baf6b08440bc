"""What is rounded: predictions in float32, and the products of one 3x3 convolution on bfloat16 images.

`python -m benchmarks.rounding`; a minute. Errors are those against float64. The schemes for bfloat16 are emulated in
float64 with each number rounded as the kernels, or what was tried in their place, round it; the result is rounded to
bfloat16, as it is written.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click
import rust_diffusion as rd
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.peers.course import DiffusionUNet as CourseUNet

#: Networks whose predictions are compared: a name, keywords, the height and width of the images.
NETWORKS: list[tuple[str, dict[str, Any], int]] = [
    ("course", {}, 64),
    ("course", {}, 32),
    ("course", {}, 128),
    ("`base_ch=32`", {"base_ch": 32}, 64),
    ("`base_ch=128`", {"base_ch": 128}, 64),
]
#: Untrained networks each, and images in a batch.
DRAWN, BATCH = 4, 2
OUTPUTS, SIZE, IMAGES = 64, 16, 2
#: Input channels whose sum is made in whole numbers before it is added up in float32; the largest norms of such a
#: stretch of inputs and of filters.
STRETCH, LENGTH, NORM = 128, 65_500.0, 32_700.0
HALF = math.sqrt(0.5)
#: The points of F(2x2, 3x3) and F(4x4, 3x3), but for infinity.
POINTS = {"F(2x2)": (0.0, 1.0, -1.0), "F(4x4)": (0.0, HALF, -HALF, 2 * HALF, -2 * HALF)}

#: Takes points (tiles, channels, p, q), filter values (outputs, channels, p, q) and the tiles' windows.
Products = Callable[["Scheme", Tensor, Tensor, Tensor], Tensor]


@dataclass
class Scheme:
    """Minimal filtering by the given points: of windows, filters and products."""

    outputs: Tensor
    filters: Tensor
    windows: Tensor

    @classmethod
    def of(cls, points: tuple[float, ...]) -> Scheme:
        """Toom and Cook's construction: values at the points and at infinity, and the transposed inverse."""
        count = len(points) + 1
        powers = torch.tensor([[p**k for k in range(count)] for p in points] + [[0.0] * count]).double()
        powers[-1, -1] = 1.0
        ends = (torch.zeros(count - 2).double(), torch.zeros(3).double())
        for end in ends:
            end[-1] = 1.0
        outputs = torch.cat([powers[:-1, : count - 2], ends[0][None]]).T
        filters = torch.cat([powers[:-1, :3], ends[1][None]])
        return cls(outputs, filters, torch.linalg.inv(powers).T)

    def convolve(self, x: Tensor, weight: Tensor, products: Products) -> Tensor:
        """Convolve (N, C, H, W) with (O, C, 3, 3), padding 1; H and W are multiples of the tile."""
        step, width = self.outputs.shape
        tiles = F.pad(x, (1, 1, 1, 1)).unfold(2, width, step).unfold(3, width, step)
        n, _, rows, columns = tiles.shape[:4]
        windows = tiles.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
        v = self.windows @ windows @ self.windows.T
        u = self.filters @ weight @ self.filters.T
        y = self.outputs @ products(self, v, u, windows) @ self.outputs.T
        y = y.reshape(n, rows, columns, -1, step, step).permute(0, 3, 1, 4, 2, 5)
        return y.flatten(4, 5).flatten(2, 3)


def _sum(v: Tensor, u: Tensor) -> Tensor:
    return torch.einsum("tcpq,ocpq->topq", v, u)


def bfloat16(x: Tensor) -> Tensor:
    """Round to bfloat16."""
    return x.bfloat16().double()


def exact(_: Scheme, v: Tensor, u: Tensor, windows: Tensor) -> Tensor:
    """Float32's rounding is nothing beside bfloat16's."""
    return _sum(v, u)


def short(_: Scheme, v: Tensor, u: Tensor, windows: Tensor) -> Tensor:
    """Points and filter values of bfloat16, as `vdpbf16ps` takes them."""
    return _sum(bfloat16(v), bfloat16(u))


def whole(scheme: Scheme, v: Tensor, u: Tensor, windows: Tensor) -> Tensor:
    """Whole numbers of 16 bits, as the engine scales them.

    A scale for each stretch of an image's inputs, and one for each stretch, output and point of the filter: no
    stretch of the inputs is longer than `LENGTH`, none of the filter longer than `NORM`, as vectors. Windows are of
    one image after the other.
    """
    reach = scheme.windows.abs().sum(1)
    reach = reach[:, None] * reach
    filters = scheme.filters.abs()
    images = windows.unflatten(0, (IMAGES, -1))
    total = torch.zeros(())
    for start in range(0, v.shape[1], STRETCH):
        own = slice(start, start + STRETCH)
        x = images[:, :, own]
        scale = torch.maximum(
            x.abs().amax((1, 2, 3, 4)) / 32767, x.square().sum(2).sqrt().amax((1, 2, 3)) / LENGTH
        )
        scale = scale.repeat_interleave(images.shape[1])[:, None, None, None] * reach
        # the norms of taps bound those of the values at the points
        taps = u[:, own].flatten(2) @ torch.linalg.pinv(torch.kron(scheme.filters, scheme.filters)).T
        norms = (filters @ taps.square().sum(1).sqrt().unflatten(1, (3, 3)) @ filters.T)[:, None] / NORM
        total = total + _sum((v[:, own] / scale).round() * scale, (u[:, own] / norms).round() * norms)
    return total


def _images(channels: int) -> Tensor:
    """What a convolution of the network reads: after a norm and SiLU."""
    return bfloat16(F.silu(torch.randn(IMAGES, channels, SIZE, SIZE).double()))


def _predictions(network: dict[str, Any], size: int, seed: int) -> tuple[float, float, float]:
    """Largest error of one untrained network's predictions: ours, the course module's, and its in channels last."""
    torch.manual_seed(seed)
    course = CourseUNet(**network).eval()
    ours = rd.DiffusionUNet(**network).eval()
    ours.load_state_dict(course.state_dict())
    x, t = torch.randn(BATCH, 1, size, size), torch.randint(400, (BATCH,))
    with torch.no_grad():
        want = course.double()(x.double(), t)
        said = [ours(x, t), course.float()(x, t)]
        for p in course.parameters():
            if p.dim() == 4:
                p.data = p.data.contiguous(memory_format=torch.channels_last)
        said.append(course(x.contiguous(memory_format=torch.channels_last), t))
    first, second, third = (((y - want).abs().max() / want.abs().max()).item() for y in said)
    return first, second, third


def _print_predictions(seed: int) -> None:
    click.echo("| network | images | rust_diffusion | course module | the same in channels last |")
    click.echo("|---|---|---|---|---|")
    for name, network, size in NETWORKS:
        drawn = [_predictions(network, size, seed + k) for k in range(DRAWN)]
        worst = (f"{max(errors):.1e}" for errors in zip(*drawn, strict=True))
        click.echo(f"| {name} | {size} x {size} | " + " | ".join(worst) + " |")


@click.command()
@click.option("--seed", default=0, show_default=True)
def main(seed: int) -> None:
    """Print the largest errors of predictions in float32, then those of each kind of product in bfloat16."""
    _print_predictions(seed)
    click.echo()
    _print_products(seed)


def _print_products(seed: int) -> None:
    """Of each kind, relative to the result, for some numbers of input channels."""
    kinds: dict[str, tuple[str, Products] | None] = {
        "PyTorch, autocast to bfloat16": None,
        "F(4x4), float32": ("F(4x4)", exact),
        "F(2x2), bfloat16": ("F(2x2)", short),
        "F(4x4), bfloat16": ("F(4x4)", short),
        "F(2x2), whole numbers": ("F(2x2)", whole),
        "F(4x4), whole numbers": ("F(4x4)", whole),
    }
    sizes = (64, 128, 256, 512)
    click.echo(
        "| products | " + " | ".join(f"{c} channels" for c in sizes) + " |\n|---|" + "---|" * len(sizes)
    )
    for name, kind in kinds.items():
        errors = []
        for channels in sizes:
            torch.manual_seed(seed)
            x = _images(channels)
            weight = torch.randn(OUTPUTS, channels, 3, 3).double() / math.sqrt(9 * channels)
            want = F.conv2d(x, weight, padding=1)
            if kind is None:
                got = F.conv2d(x, bfloat16(weight), padding=1)
            else:
                got = Scheme.of(POINTS[kind[0]]).convolve(x, weight, kind[1])
            errors.append(((bfloat16(got) - want).norm() / want.norm()).item())
        click.echo(f"| {name} | " + " | ".join(f"{error:.1e}" for error in errors) + " |")


if __name__ == "__main__":
    sys.exit(main())
