"""What a batch may be, and the tensor in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from rust_diffusion.support.images import as_images, checked_dtype, shared


def images_of(name: str, batch: Any, key: str | None = None) -> Tensor:
    """The images of a batch: the batch itself, the first part of (images, labels, ...), or what a dict has at `key`."""
    batch = _part(name, batch, key)
    if isinstance(batch, np.ndarray):
        batch = shared(name, batch)
    if not isinstance(batch, Tensor):
        raise TypeError(
            f"{name} must give tensors or arrays (B, C, H, W), or tuples that begin with one, "
            f"got {type(batch).__name__}"
        )
    if batch.ndim != 4:
        raise ValueError(f"{name} must give batches of shape (B, C, H, W), got {tuple(batch.shape)}")
    return checked_dtype(name, batch)


def stacked(
    name: str, samples: list[Any], key: str | None = None, indices: list[int] | None = None
) -> Tensor:
    """The images of single samples, each of a form that a list of images may hold, as a batch.

    `indices` are what messages call them.
    """
    return as_images([_part(name, sample, key) for sample in samples], name, indices)


def _part(name: str, batch: Any, key: str | None) -> Any:
    """What has the images in it."""
    if isinstance(batch, Mapping):
        batch = _at(name, batch, key)
    return batch[0] if isinstance(batch, (tuple, list)) and batch else batch


def _at(name: str, batch: Mapping[str, Any], key: str | None) -> Any:
    if key is None:
        raise TypeError(f"{name} gives dicts with {_listed(batch)}: say which holds the images, key=...")
    if key not in batch:
        raise ValueError(f"{name} gives dicts with {_listed(batch)}, but key is {key!r}")
    return batch[key]


def _listed(batch: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, batch))
