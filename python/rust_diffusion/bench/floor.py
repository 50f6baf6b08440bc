"""The floor: the bare convolutions and matrix products of one forward pass, in their best layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rust_diffusion.bench import course
from rust_diffusion.bench.contenders import COURSE


def floor(device: str, batch: int, size: int, dtype: torch.dtype) -> Callable[[], None]:
    """Return a function that runs each convolution and matrix product of the course network once.

    The shapes are recorded from a forward pass; inputs and weights are made beforehand, in `dtype`.
    """
    network = course.DiffusionUNet(**COURSE).eval()
    calls: list[tuple[nn.Module, torch.Size]] = []
    hooks = [
        module.register_forward_pre_hook(lambda module, inputs: calls.append((module, inputs[0].shape)))
        for module in network.modules()
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.MultiheadAttention))
    ]
    with torch.no_grad():
        network(torch.zeros(batch, COURSE["in_ch"], size, size), torch.zeros(batch, dtype=torch.long))
    for hook in hooks:
        hook.remove()

    work: list[Callable[[], Tensor]] = []
    for module, shape in calls:
        x = torch.randn(shape, device=device, dtype=dtype)
        if isinstance(module, nn.Conv2d):
            work.append(_convolution(module, x))
        elif isinstance(module, nn.Linear):
            work.append(_product(x.flatten(0, -2), module.weight))
        else:
            work += _attention(module, x)

    def run() -> None:
        with torch.no_grad():
            for piece in work:
                piece()

    return run


def _convolution(module: nn.Conv2d, x: Tensor) -> Callable[[], Tensor]:
    x = x.contiguous(memory_format=torch.channels_last)
    weight = module.weight.detach().to(x).contiguous(memory_format=torch.channels_last)
    return lambda: F.conv2d(x, weight, None, module.stride, module.padding)


def _product(x: Tensor, weight: Tensor) -> Callable[[], Tensor]:
    weight = weight.detach().to(x)
    return lambda: F.linear(x, weight)


def _attention(module: Any, x: Tensor) -> list[Callable[[], Tensor]]:
    """List its four products: in, scores, values, out."""
    b, n, c = x.shape
    heads = module.num_heads
    q = torch.randn(b * heads, n, c // heads, device=x.device, dtype=x.dtype)
    scores = torch.randn(b * heads, n, n, device=x.device, dtype=x.dtype)
    return [
        _product(x.flatten(0, 1), module.in_proj_weight),
        lambda: torch.bmm(q, q.transpose(1, 2)),
        lambda: torch.bmm(scores, q),
        _product(x.flatten(0, 1), module.out_proj.weight),
    ]
