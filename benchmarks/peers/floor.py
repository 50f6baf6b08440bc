"""The floor: the bare convolutions and matrix products of one forward pass, in their best layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers import course
from benchmarks.peers.contender import COURSE


def layers(batch: int, size: int, **config: Any) -> list[tuple[nn.Module, torch.Size]]:
    """List the layers of the course network that multiply, with the shapes of their inputs in a forward pass."""
    network = course.DiffusionUNet(**{**COURSE, **config}).eval()
    calls: list[tuple[nn.Module, torch.Size]] = []
    hooks = [
        module.register_forward_pre_hook(lambda module, inputs: calls.append((module, inputs[0].shape)))
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


def flops(batch: int, size: int, **config: Any) -> float:
    """Count multiplications and additions of a forward pass's convolutions and matrix products."""
    total = 0.0
    for module, shape in layers(batch, size, **config):
        if isinstance(module, nn.Conv2d):
            outputs = shape[0] * shape[2] * shape[3] / module.stride[0] ** 2
            total += 2 * outputs * module.weight.numel()
        elif isinstance(module, nn.Linear):
            total += 2 * shape[:-1].numel() * module.weight.numel()
        else:
            b, n, c = shape
            total += 8 * b * n * c * c + 4 * b * n * n * c
    return total


def floor(device: str, batch: int, size: int, dtype: torch.dtype) -> Callable[[], None]:
    """Return a function that runs each convolution and matrix product of the course network once.

    Inputs and weights are made beforehand, in `dtype`.
    """
    work: list[Callable[[], Tensor]] = []
    for module, shape in layers(batch, size):
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
