"""CUDA graphs: work that is the same each time, captured once and launched in one go.

A step of a small network is hundreds of short kernels, which take longer to launch than to run. On one H200 captured
training and sampling gave the numbers of the direct ones in every precision (tests marked `cuda`), up to twice as fast.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from typing import Any

import torch

from rust_diffusion.support.warning import first_line, warn

#: Set to 0 to do without them wherever the argument `cuda_graphs` does not say otherwise.
SWITCH = "RUST_DIFFUSION_CUDA_GRAPHS"

#: Two threads must not capture at once: torch waits for the whole device before it begins.
_ONE_AT_A_TIME = threading.Lock()
#: Graphs whose capture could not be ended properly; torch's allocator may still ask them.
_BROKEN: list[Any] = []


class CudaGraph:
    """What the engine calls to capture its work on one GPU; where that fails, it says so and does without."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._graph: torch.cuda.CUDAGraph | None = None
        self._pool: Any = None
        self._capturing = contextlib.ExitStack()

    def begin(self) -> bool:
        """Capture this thread's work from now on."""
        enter = self._capturing.enter_context
        enter(_ONE_AT_A_TIME)
        try:
            enter(torch.cuda.device(self._device))
            # torch leaves its own stream behind if a capture breaks: this one is put back in any case.
            enter(torch.cuda.stream(torch.cuda.current_stream()))
            self._graph, self._pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
            # Other threads, a DataLoader's that pins memory for one, go on with what they do.
            enter(
                torch.cuda.graph(
                    self._graph,
                    pool=self._pool,
                    stream=_stream(self._device),
                    capture_error_mode="thread_local",
                )
            )
        except RuntimeError as error:
            return self._give_up(error, broken=True)
        return True

    def end(self, whole: bool) -> bool:
        """Stop capturing; `whole` is False after an error in the work."""
        try:
            self._capturing.close()
        except RuntimeError as error:
            return self._give_up(error, broken=True)
        return whole or self._give_up("an operation cannot be captured", broken=False)

    def replay(self) -> None:
        """Do what was captured."""
        assert self._graph is not None, "nothing was captured"
        with torch.cuda.device(self._device):
            self._graph.replay()

    def _give_up(self, reason: object, broken: bool) -> bool:
        with contextlib.suppress(RuntimeError):
            self._capturing.close()
        if broken and torch.cuda.is_initialized():
            _BROKEN.append(self._graph)
            _mend(self._device, self._pool)
        self._graph = None  # its memory is needed for the work itself
        warn(f"no CUDA graph could be made ({first_line(reason)}); it goes on without, more slowly")
        return False


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream that captures on `device`; torch's own belongs to the GPU that was first."""
    return torch.cuda.Stream(device)


def _mend(device: torch.device, pool: Any) -> None:
    """Undo what torch 2.11 leaves behind when a capture breaks: generator and allocator believe that it goes on."""
    index = torch.cuda.current_device() if device.index is None else device.index
    with contextlib.suppress(RuntimeError):
        generator = torch.cuda.default_generators[index]
        generator.graphsafe_set_state(generator.clone_state())
    for undo in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        with contextlib.suppress(RuntimeError):
            getattr(torch._C, undo)(index, pool)


def new(device: torch.device, asked: bool | None = None) -> CudaGraph | None:
    """Return a graph for work of `device` where that is possible and not refused (by `SWITCH`, if `asked` is None)."""
    if asked is None:
        asked = os.environ.get(SWITCH) != "0"
    return CudaGraph(device) if asked and device.type == "cuda" else None


def queues(device: torch.device) -> bool:
    """Whether work on `device` is only queued, so that reading a number waits for all of it."""
    return device.type == "cuda"


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """`tensor` on `device`, without waiting for the device where it need not be waited for."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
