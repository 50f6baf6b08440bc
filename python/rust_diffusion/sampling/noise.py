"""Where the noise of a sampler comes from: a generator, or a stream of its own for each image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rust_diffusion.support import checks, graphs


def source(
    generator: Any, seed: Any, count: int, device: torch.device
) -> Callable[[list[int]], Tensor] | None:
    """Return what draws noise of a shape; None for torch's own random state."""
    check_one_source(generator, seed)
    if generator is not None:
        if not isinstance(generator, torch.Generator):
            raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
        if generator.device.type != device.type:
            raise ValueError(
                f"generator must be on {device.type}, where the images are drawn, got {generator.device.type}"
            )
        return lambda shape: torch.randn(shape, generator=generator, device=device, dtype=torch.float32)
    if seed is None:
        return None
    streams = [torch.Generator().manual_seed(s) for s in seeds_of(seed, count)]

    def draw(shape: list[int]) -> Tensor:
        images = torch.stack(
            [torch.randn(shape[1:], generator=stream, dtype=torch.float32) for stream in streams]
        )
        return graphs.sent(images, device)

    return draw


def check_one_source(generator: Any, seed: Any) -> None:
    """Refuse two sources of noise."""
    if generator is not None and seed is not None:
        raise ValueError("give either generator or seed, not both")


def seeds_of(seed: Any, count: int) -> list[int]:
    """Return the seed of each image: those that are given, or the one that is and its successors."""
    if isinstance(seed, (Sequence, range, torch.Tensor)) or hasattr(seed, "__iter__"):
        seeds = checks.integers("seed", seed, -(2**63), 2**64 - 1)
        if len(seeds) != count:
            raise ValueError(f"seed must have one entry per image ({count}), got {len(seeds)}")
        return seeds
    first = checks.integer("seed", seed, -(2**63), 2**63 - 1)
    return [first + k for k in range(count)]
