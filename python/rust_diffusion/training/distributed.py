"""Several processes training one model, as started by `torchrun`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

#: A rank that is waited for longer than this is taken for dead. Long, as rank 0 writes files and validates
#: meanwhile.
TIMEOUT = timedelta(minutes=10)

_T = TypeVar("_T")


class Group:
    """The processes of a run; by default this one alone."""

    rank = 0
    processes = 1

    def all_reduce(self, flat: Tensor) -> None:
        """Replace `flat` by its sum over the processes."""

    def share(self, make: Callable[[], _T]) -> _T:
        """What `make` gives on rank 0, on every rank; what it raises there is raised on every rank."""
        return make()

    def same_tensors(self, tensors: list[Tensor]) -> None:
        """Give every rank the values of rank 0, in place."""

    def same_random_state(self, device: torch.device) -> None:
        """Give every rank the random state of rank 0."""


class TorchGroup(Group):
    """The default group of torch.distributed."""

    def __init__(self) -> None:
        self.rank, self.processes = dist.get_rank(), dist.get_world_size()

    def all_reduce(self, flat: Tensor) -> None:
        """Replace `flat` by its sum over the processes."""
        dist.all_reduce(flat)

    def share(self, make: Callable[[], _T]) -> _T:
        """What `make` gives on rank 0, on every rank; what it raises there is raised on every rank."""
        box: list[Any] = [None, None]
        if self.rank == 0:
            try:
                box[0] = make()
            except Exception as error:
                box[1] = error
        dist.broadcast_object_list(box, src=0)
        if box[1] is not None:
            raise box[1]
        return box[0]

    def same_tensors(self, tensors: list[Tensor]) -> None:
        """Give every rank the values of rank 0, in place."""
        with torch.no_grad():
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def same_random_state(self, device: torch.device) -> None:
        """Give every rank the random state of rank 0."""
        torch.set_rng_state(self.share(torch.get_rng_state))
        if device.type == "cuda":
            torch.cuda.set_rng_state(self.share(lambda: torch.cuda.get_rng_state(device)), device)


@contextlib.contextmanager
def group(device: torch.device) -> Iterator[Group]:
    """The group that this process belongs to; made from torchrun's environment if there is none yet."""
    if not dist.is_available():
        yield Group()
    elif dist.is_initialized():
        yield TorchGroup() if dist.get_world_size() > 1 else Group()
    elif int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ and "MASTER_ADDR" in os.environ:
        cuda = device.type == "cuda"
        dist.init_process_group(
            "nccl" if cuda else "gloo", timeout=TIMEOUT, device_id=device if cuda else None
        )
        try:
            yield TorchGroup()
        finally:
            dist.destroy_process_group()
    else:
        yield Group()


def own_device(device: torch.device) -> torch.device:
    """The device of this process: under torchrun each has a GPU of its own."""
    if device.type == "cuda" and "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return device
