"""Phantoms that no training has seen."""

from __future__ import annotations

import rust_diffusion as rd
import torch
from torch import Tensor

#: Slices of one person in `phantoms`: held-out slices are of as many persons as there are slices.
OF_A_PERSON = 16
SEED = 1_000_000


def held_out(count: int, size: int) -> Tensor:
    """Return slices of people who are not in the training set, one of each, at all heights alike."""
    slices = rd.phantoms(OF_A_PERSON * count, size=size, seed=SEED)
    person = torch.arange(count)
    return slices[OF_A_PERSON * person + person % OF_A_PERSON]
