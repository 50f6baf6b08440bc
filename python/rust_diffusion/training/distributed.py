"""Several processes training one model, as started by `torchrun`."""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from rust_diffusion.support.interrupts import Noted

#: How long the ranks wait for one another between updates: rank 0 validates, calls back and writes files meanwhile. A
#: rank that dies is noticed at once, by its connection.
PATIENCE = timedelta(days=7)

#: How the work went on the rank where it went worst.
_WELL, _INTERRUPTED, _FAILED = range(3)

_T = TypeVar("_T")


class Group:
    """The processes of a run; by default this one alone."""

    rank = 0
    processes = 1

    def all_reduce(self, flat: Tensor) -> None:
        """Replace `flat` by its sum over the processes."""

    def agree(self, interrupted: bool, failed: bool) -> None:
        """End the run on every rank if it ended on one."""

    def share(self, make: Callable[[], _T]) -> _T:
        """What `make` gives on rank 0, on every rank; what it raises there is raised on every rank."""
        return make()

    def same_tensors(self, tensors: list[Tensor]) -> None:
        """Give every rank the values of rank 0, in place."""

    def same_random_state(self, device: torch.device) -> None:
        """Give every rank the random state of rank 0."""

    def interrupts(self) -> contextlib.AbstractContextManager[Any]:
        """What holds during the loop: the only process raises Ctrl-C where it comes."""
        return contextlib.nullcontext()


class TorchGroup(Group):
    """The default group of torch.distributed."""

    def __init__(self) -> None:
        self.rank, self.processes = dist.get_rank(), dist.get_world_size()
        # beside the gradients' own: on the CPU whatever they are on, and patient
        self._words: Any = dist.new_group(backend="gloo", timeout=PATIENCE)
        self._noted = Noted()

    def close(self) -> None:
        """Leave; whoever still waits for this rank is told by its connection."""
        dist.destroy_process_group(self._words)
        self._words = None

    def all_reduce(self, flat: Tensor) -> None:
        """Replace `flat` by its sum over the processes."""
        dist.all_reduce(flat)

    def agree(self, interrupted: bool, failed: bool) -> None:
        """End the run on every rank if it ended on one: no rank leaves while others wait for its gradients.

        Raises
        ------
        KeyboardInterrupt
            If a rank was interrupted.
        RuntimeError
            If another rank failed.
        """
        own = _FAILED if failed else _INTERRUPTED if interrupted or self._noted.came else _WELL
        worst = torch.tensor(own)
        dist.all_reduce(worst, dist.ReduceOp.MAX, group=self._words)
        if worst == _FAILED and not failed:
            raise RuntimeError("another process of this run failed; its own message says why")
        if worst == _INTERRUPTED:
            raise KeyboardInterrupt

    def share(self, make: Callable[[], _T]) -> _T:
        """What `make` gives on rank 0, on every rank; what it raises there is raised on every rank."""
        box: list[Any] = [None, None]
        raised: BaseException | None = None
        if self.rank == 0:
            try:
                with self._noted.raised():
                    box[0] = make()
            except BaseException as error:  # Ctrl-C too: nobody may be left waiting
                raised, box[1] = error, _portable(error)
        dist.broadcast_object_list(box, src=0, group=self._words)
        raised = raised or box[1]
        if raised is not None:
            raise raised
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

    def interrupts(self) -> contextlib.AbstractContextManager[Any]:
        """Note Ctrl-C, for `agree` to raise on every rank: torn out of a reduction, one leaves the others there."""
        return self._noted


def _portable(error: BaseException) -> BaseException:
    """`error` as it can be sent: some hold what cannot be pickled, others cannot be made again."""
    try:
        pickle.dumps(copy.copy(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


@contextlib.contextmanager
def group(device: torch.device) -> Iterator[Group]:
    """The group that this process belongs to; made from torchrun's environment if there is none yet."""
    if not dist.is_available() or not (dist.is_initialized() or _is_started_by_torchrun()):
        yield Group()
        return
    with _initialised(device):
        if dist.get_world_size() == 1:
            yield Group()
            return
        own = TorchGroup()
        try:
            yield own
        finally:
            own.close()


def _is_started_by_torchrun() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ and "MASTER_ADDR" in os.environ


@contextlib.contextmanager
def _initialised(device: torch.device) -> Iterator[None]:
    """torch.distributed's default group; one that is there already stays."""
    if dist.is_initialized():
        yield
        return
    cuda = device.type == "cuda"
    dist.init_process_group("nccl" if cuda else "gloo", device_id=device if cuda else None)
    try:
        yield
    finally:
        dist.destroy_process_group()


def own_device(device: torch.device) -> torch.device:
    """The device of this process: under torchrun each has a GPU of its own."""
    if device.type == "cuda" and "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return device
