"""What the machine could do at best is told of the same layers as the engine's time."""

import torch

import rust_diffusion as rd
from benchmarks.harness.operations import operations
from benchmarks.peers.contender import COURSE
from benchmarks.peers.floor import layers

NAMES = {
    "time embedding": ["Linear", "Linear"],
    "convolution": ["Conv2d"],
    "residual block": ["Conv2d", "Linear", "Conv2d"],
    "attention": ["MultiheadAttention"],
    "doubling": ["Conv2d"],
    "head": ["Conv2d"],
}


def test_every_layer_belongs_to_the_operation_that_computes_it():
    model = rd.DiffusionUNet(**COURSE).eval().requires_grad_(False)
    held = model._handed_over(list(model.parameters()))
    times = held.times(torch.randn(1, 1, 16, 16), torch.zeros(1, dtype=torch.long), False)
    assert all(seconds > 0 for _, seconds in times)
    kinds = [kind for kind, _ in times]
    parts = list(operations(layers(1, 16), kinds))
    assert len(parts) == len(kinds)
    skips = 0
    for kind, part in zip(kinds, parts, strict=True):
        names = [type(layer.module).__name__ for layer in part]
        if names == ["Conv2d", "Linear", "Conv2d", "Conv2d"]:
            assert part[3].module.kernel_size == (1, 1)
            skips += 1
            names.pop()
        assert names == NAMES[kind]
        assert all(layer.doubled == (kind == "doubling") for layer in part)
    assert skips == sum(
        isinstance(block.skip, torch.nn.Conv2d) for block in model.modules() if hasattr(block, "skip")
    )
