"""The images of the measure: what is trained on, and what is held out."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import rust_diffusion as rd
import torch
from torch import Tensor

from benchmarks.harness.held_out import held_out

#: Phantoms trained on; and held out, each of another person.
TRAINED, HELD_OUT = 1024, 256
#: One real slice in so many is held out.
_NINTH = 9


class Images(NamedTuple):
    """(N, 1, size, size) each, in [-1, 1]."""

    name: str
    train: Tensor
    held_out: Tensor


def read(slices: str | None, size: int) -> Images:
    """Phantoms, or the slices of a folder or pattern."""
    if slices is None:
        return Images("phantoms", rd.phantoms(TRAINED, size=size, seed=0), held_out(HELD_OUT, size))
    everything = rd.load_images(slices, size=size, progress=False)
    chosen = torch.arange(len(everything)) % _NINTH == _NINTH - 1
    name = Path(slices.partition("*")[0]).name or "slices"
    return Images(name, everything[~chosen], everything[chosen])
