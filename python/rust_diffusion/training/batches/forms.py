"""The forms in which `train` takes data."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset

from rust_diffusion.support.images import as_images, is_list_of_images
from rust_diffusion.support.random import draw_seed
from rust_diffusion.support.values import check_values
from rust_diffusion.training.batches.images import stacked
from rust_diffusion.training.batches.kinds import Batches, InMemory, Loaded, Repeated


def as_batches(
    name: str, data: Any, batch_size: int, seed: int | None, epochs: int | None, shuffle: bool = True
) -> Batches:
    """`data` in whatever form as `Batches`; a tensor's content is checked as a whole.

    They will be gone through so many times, or, with None, an unknown number of times.

    Raises
    ------
    TypeError, ValueError
        If it is in none of the forms, empty, or not finite.
    """
    if isinstance(data, (Tensor, np.ndarray)) or is_list_of_images(data):
        images = as_images(data, name)
        if len(images) == 0:
            raise ValueError(f"{name} is empty: its shape is {tuple(images.shape)}")
        check_values(name, images)
        return InMemory(images.detach(), batch_size, draw_seed() if seed is None else seed)
    if isinstance(data, Dataset) or _is_list_of_samples(data):
        return _of_dataset(name, data, batch_size, shuffle)
    if isinstance(data, DataLoader):
        return _of_loader(name, data)
    if callable(data):
        return Repeated(data, None)
    if isinstance(data, Iterable) and not isinstance(data, (str, bytes, dict)):
        return _of_iterable(name, data, epochs)
    raise TypeError(
        f"{name} must be a tensor or array (N, C, H, W), a list of images, a Dataset, a DataLoader, a list of "
        f"batches or a function that makes an iterator over them, got {type(data).__name__}"
    )


def _is_list_of_samples(data: Any) -> bool:
    """Tell whether `data` is a list of (image, label), which a `Dataset` would be too."""
    return (
        isinstance(data, list)
        and bool(data)
        and isinstance(data[0], tuple)
        and is_list_of_images(data[0][:1])
    )


def _of_dataset(name: str, data: Dataset[Any], batch_size: int, shuffle: bool) -> Batches:
    _check_length(name, data)
    random_access = shuffle and not isinstance(data, IterableDataset)

    def collate(samples: list[Any]) -> Tensor:
        if not numbered:
            return stacked(name, samples, batches.key)
        return stacked(name, [item for _, item in samples], batches.key, [index for index, _ in samples])

    # those that give whole lists at a time do so without numbers
    numbered = not isinstance(data, IterableDataset) and not hasattr(data, "__getitems__")
    source = _Numbered(data) if numbered else data
    batches = Loaded(DataLoader(source, batch_size=batch_size, shuffle=random_access, collate_fn=collate))
    batches.sized_here = True
    return batches


class _Numbered(Dataset[tuple[int, Any]]):
    """A data set whose items bring their index, for messages."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> tuple[int, Any]:
        return index, self._data[index]


def _of_loader(name: str, data: DataLoader[Any]) -> Batches:
    if isinstance(data.sampler, DistributedSampler):
        raise ValueError(
            f"{name} has a DistributedSampler; give a plain DataLoader of the whole batches, "
            f"they are shared out among the processes here"
        )
    _check_length(name, data)
    return Loaded(data)


def _of_iterable(name: str, data: Iterable[Any], epochs: int | None) -> Batches:
    if iter(data) is data and epochs != 1:
        often = "is read more often" if epochs is None else f"there are {epochs} epochs"
        raise ValueError(
            f"{name} is an iterator, which can be read only once, and {often}: "
            f"give a function that makes a new one each time, or a list of batches"
        )
    _check_length(name, data)
    return Repeated(lambda: data, len(data) if isinstance(data, Sized) else None)


def _check_length(name: str, data: Any) -> None:
    try:
        empty = len(data) == 0
    except TypeError:
        return
    if empty:
        raise ValueError(f"{name} is empty")
