"""Training data as one thing: batches, anew in each epoch, from any place on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from rust_diffusion.support.values import warn_of_values
from rust_diffusion.training.batches.images import images_of


class Share(NamedTuple):
    """One process' rows of a batch."""

    images: Tensor
    #: Images in the whole batch.
    total: int
    #: The place of the first row in it.
    first: int


#: (rank, processes).
Part = tuple[int, int]
WHOLE: Part = (0, 1)

#: Called once the batches that a resumed epoch has already seen are skipped, before the next one is made.
Ready = Callable[[], None]


class Batches:
    """Batches once per epoch."""

    #: What messages call them.
    name = "data"
    #: Whether the range of their values was looked at.
    range_checked = False
    #: Random generators that the data have for themselves.
    generators: tuple[torch.Generator, ...] = ()
    #: Whether making a batch runs code that is not ours, which may draw from any generator.
    runs_code = True
    #: Whether `batch_size` is `train`'s own argument.
    sized_here = False
    #: What dicts hold the images at.
    key: str | None = None
    #: Decides, with the epoch's number, an order that is made here; None where the data decide it.
    order_seed: int | None = None

    def count(self) -> int | None:
        """Batches per epoch; None when the data do not say."""
        return None

    def epoch(self, number: int, skip: int, ready: Ready, part: Part = WHOLE) -> Iterator[Share]:
        """Rows of the batches of epoch `number` from the one at `skip` on; `part` says whose rows."""
        for batch in self.whole(number, skip, ready):
            images = images_of(self.name, batch, self.key)
            first, end = bounds(len(images), part)
            yield Share(images[first:end], len(images), first)

    def check_range(self, images: Tensor) -> None:
        """Warn of the range of the first batch that comes; later ones are taken for like it."""
        if not self.range_checked:
            self.range_checked = True
            warn_of_values(self.name, images)

    def whole(self, number: int, skip: int, ready: Ready) -> Iterator[Any]:
        """Whole batches as the data give them."""
        raise NotImplementedError


def bounds(total: int, part: Part) -> tuple[int, int]:
    """Where a process' rows begin and end."""
    rank, processes = part
    return total * rank // processes, total * (rank + 1) // processes


class InMemory(Batches):
    """A tensor (N, C, H, W), shuffled in each epoch by a generator seeded from (order_seed, epoch).

    The order so depends on nothing else, and an epoch can be entered anywhere. The last batch may be short.
    """

    runs_code = False
    sized_here = True
    range_checked = True  # by the whole of them

    def __init__(self, images: Tensor, batch_size: int, order_seed: int) -> None:
        self.images, self.batch_size, self.order_seed = images, batch_size, order_seed

    def move_to(self, device: torch.device) -> None:
        """Keep the images on the GPU that uses them, unless they would take more than half of what is free there."""
        if device.type == "cuda" and self.images.nbytes < torch.cuda.mem_get_info(device)[0] // 2:
            self.images = self.images.to(device)

    def count(self) -> int:
        """Batches per epoch."""
        return -(-len(self.images) // self.batch_size)

    def epoch(self, number: int, skip: int, ready: Ready, part: Part = WHOLE) -> Iterator[Share]:
        """Rows in the epoch's order; those of other processes are not even gathered."""
        assert self.order_seed is not None
        order = torch.randperm(len(self.images), generator=_order_generator(self.order_seed, number))
        order = order.to(self.images.device)
        ready()
        for chosen in order.split(self.batch_size)[skip:]:
            first, end = bounds(len(chosen), part)
            yield Share(self.images[chosen[first:end]], len(chosen), first)


def _order_generator(order_seed: int, epoch: int) -> torch.Generator:
    # An odd multiplier far from simple fractions of 2^63: neighbouring seeds and epochs do not meet.
    return torch.Generator().manual_seed((order_seed + (epoch + 1) * 0x1E3779B97F4A7C15) % 2**63)


class Loaded(Batches):
    """A DataLoader. A resumed epoch skips lists of indices, so that no image of a skipped batch is read."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader
        owners = (loader, loader.sampler, getattr(loader.batch_sampler, "sampler", None))
        found = [getattr(owner, "generator", None) for owner in owners]
        self.generators = tuple({id(g): g for g in found if isinstance(g, torch.Generator)}.values())

    def count(self) -> int | None:
        """Batches per epoch; None where the loader cannot say."""
        try:
            return len(self.loader)
        except TypeError:
            return None

    def whole(self, number: int, skip: int, ready: Ready) -> Iterator[Any]:
        """Batches as the loader collates them."""
        del number
        if skip == 0:
            iterator = iter(self.loader)
            ready()
            return iterator
        if not self._knows_indices():
            # Nothing to skip but the batches themselves.
            return _drop(iter(self.loader), skip, ready)
        return iter(_with_sampler(self.loader, _Skipping(_sampler(self.loader), skip, ready)))

    def _knows_indices(self) -> bool:
        return type(self.loader) is DataLoader and not isinstance(self.loader.dataset, IterableDataset)

    def epoch(self, number: int, skip: int, ready: Ready, part: Part = WHOLE) -> Iterator[Share]:
        """Rows of the loader's batches; those of other processes are not read where that can be helped."""
        if part == WHOLE or not self._knows_indices() or self.loader.batch_sampler is None:
            yield from super().epoch(number, skip, ready, part)
            return
        # Each process reads its own rows only.
        sharing = _Sharing(_Skipping(self.loader.batch_sampler, skip, ready), part)
        for batch in _with_sampler(self.loader, sharing):
            total, first, rows = sharing.sizes.popleft()
            yield Share(images_of(self.name, batch, self.key)[:rows], total, first)


class _Skipping:
    """What a sampler gives, without the first few."""

    def __init__(self, sampler: Iterable[Any], skip: int, ready: Ready) -> None:
        self.sampler, self.skip, self.ready = sampler, skip, ready

    def __iter__(self) -> Iterator[Any]:
        indices = iter(self.sampler)
        for _ in islice(indices, self.skip):
            pass
        self.ready()
        yield from indices


class _Sharing:
    """A process' part of each list of indices; `sizes` remembers (whole length, first place, rows)."""

    def __init__(self, sampler: Iterable[list[Any]], part: Part) -> None:
        self.sampler, self.part = sampler, part
        self.sizes: deque[tuple[int, int, int]] = deque()

    def __iter__(self) -> Iterator[list[Any]]:
        for indices in self.sampler:
            first, end = bounds(len(indices), self.part)
            self.sizes.append((len(indices), first, end - first))
            # a loader cannot read an empty list: then one image is read and left out
            yield indices[first:end] or indices[:1]


def _sampler(loader: DataLoader[Any]) -> Iterable[Any]:
    return loader.sampler if loader.batch_sampler is None else loader.batch_sampler


def _with_sampler(loader: DataLoader[Any], sampler: Any) -> DataLoader[Any]:
    """`loader` again, for one epoch, with another sampler."""
    batched = loader.batch_sampler is not None
    how: dict[str, Any] = {"batch_sampler": sampler} if batched else {"batch_size": None, "sampler": sampler}
    if loader.num_workers > 0:
        how["prefetch_factor"] = loader.prefetch_factor
        how["multiprocessing_context"] = loader.multiprocessing_context
    return DataLoader(
        loader.dataset,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        generator=loader.generator,
        **how,
    )


class Repeated(Batches):
    """Anything iterated over once per epoch: a list of batches, or a function that makes an iterator."""

    def __init__(self, make: Callable[[], Iterable[Any]], count: int | None) -> None:
        self.make, self._count = make, count

    def count(self) -> int | None:
        """Batches per epoch, if known."""
        return self._count

    def whole(self, number: int, skip: int, ready: Ready) -> Iterator[Any]:
        """Batches as they come; those to be skipped are made and dropped."""
        del number
        return _drop(iter(self.make()), skip, ready)


def _drop(batches: Iterator[Any], skip: int, ready: Ready) -> Iterator[Any]:
    for _ in islice(batches, skip):
        pass
    ready()
    return batches
