"""The floor: the bare convolutions and matrix products of one forward pass, in their best layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers import course
from benchmarks.peers.contender import COURSE


class Layer(NamedTuple):
    """A layer that multiplies, as a forward pass calls it."""

    module: Any
    #: Of its input.
    shape: torch.Size
    #: Whether it convolves images that were doubled just before.
    doubled: bool

    @property
    def inputs(self) -> float:
        """Numbers that it reads, weights not counted."""
        return self.shape.numel() / (4 if self.doubled else 1)

    @property
    def outputs(self) -> float:
        """Numbers that it writes."""
        if isinstance(self.module, nn.Conv2d):
            pixels = self.shape[0] * self.shape[2] * self.shape[3] / self.module.stride[0] ** 2
            return pixels * self.module.out_channels
        if isinstance(self.module, nn.Linear):
            return self.shape[:-1].numel() * self.module.out_features
        return self.shape.numel()


def layers(batch: int, size: int, **config: Any) -> list[Layer]:
    """List the layers of the course network that multiply, as they are called in a forward pass."""
    network = course.DiffusionUNet(**{**COURSE, **config}).eval()
    doubled = {module.conv for module in network.modules() if isinstance(module, course.Upsample)}
    calls: list[Layer] = []
    hooks = [
        module.register_forward_pre_hook(
            lambda module, inputs: calls.append(Layer(module, inputs[0].shape, module in doubled))
        )
        for module in network.modules()
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.MultiheadAttention))
    ]
    with torch.no_grad(), torch.device("meta"):
        network.to("meta")(
            torch.zeros(batch, COURSE["in_ch"], size, size), torch.zeros(batch, dtype=torch.long)
        )
    for hook in hooks:
        hook.remove()
    return calls


def multiplications(layer: Layer) -> float:
    """Count the multiplications of a layer by its definition."""
    module, shape = layer.module, layer.shape
    if isinstance(module, nn.Conv2d):
        return layer.outputs * module.weight[0].numel()
    if isinstance(module, nn.Linear):
        return layer.outputs * module.in_features
    b, n, c = shape
    return 4 * b * n * c * c + 2 * b * n * n * c


def flops(batch: int, size: int, **config: Any) -> float:
    """Count multiplications and additions of a forward pass's convolutions and matrix products."""
    return 2 * sum(multiplications(layer) for layer in layers(batch, size, **config))


def floor(device: str, batch: int, size: int, dtype: torch.dtype) -> Callable[[], None]:
    """Return a function that runs each convolution and matrix product of the course network once.

    Inputs and weights are made beforehand, in `dtype`.
    """
    work: list[Callable[[], Tensor]] = []
    for module, shape, _ in layers(batch, size):
        x = torch.randn(shape, device=device, dtype=dtype)
        if isinstance(module, nn.Conv2d):
            work.append(_convolution(module, x))
        elif isinstance(module, nn.Linear):
            work.append(_product(x.flatten(0, -2), module.weight.shape))
        else:
            work += _attention(module, x)

    def run() -> None:
        with torch.no_grad():
            for piece in work:
                piece()

    return run


def _convolution(module: nn.Conv2d, x: Tensor) -> Callable[[], Tensor]:
    x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(module.weight.shape, device=x.device, dtype=x.dtype)
    weight = weight.contiguous(memory_format=torch.channels_last)
    return lambda: F.conv2d(x, weight, None, module.stride, module.padding)


def _product(x: Tensor, shape: torch.Size) -> Callable[[], Tensor]:
    weight = torch.randn(shape, device=x.device, dtype=x.dtype)
    return lambda: F.linear(x, weight)


def _attention(module: Any, x: Tensor) -> list[Callable[[], Tensor]]:
    """List its four products: in, scores, values, out."""
    b, n, c = x.shape
    heads = module.num_heads
    q = torch.randn(b * heads, n, c // heads, device=x.device, dtype=x.dtype)
    scores = torch.randn(b * heads, n, n, device=x.device, dtype=x.dtype)
    return [
        _product(x.flatten(0, 1), module.in_proj_weight.shape),
        lambda: torch.bmm(q, q.transpose(1, 2)),
        lambda: torch.bmm(scores, q),
        _product(x.flatten(0, 1), module.out_proj.weight.shape),
    ]
