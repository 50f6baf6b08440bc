"""CUDA graphs: work that is the same each time, recorded once and launched in one go."""

from __future__ import annotations

import contextlib
import os
import warnings

import torch

#: Set to 0 to launch every operation by itself, as a debugger or profiler may want it.
SWITCH = "RUST_DIFFUSION_CUDA_GRAPHS"


class CudaRecorder:
    """What the engine calls to record its work on one GPU; where that fails, it says so and does without."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._graph: torch.cuda.CUDAGraph | None = None
        self._recording = contextlib.ExitStack()

    def begin(self) -> bool:
        """Record this thread's work from now on."""
        try:
            self._graph = torch.cuda.CUDAGraph()
            self._recording.enter_context(torch.cuda.device(self._device))
            self._recording.enter_context(torch.cuda.graph(self._graph))
        except RuntimeError as error:
            return self._give_up(error)
        return True

    def end(self, whole: bool) -> bool:
        """Stop recording; `whole` is False after an error in the work."""
        try:
            self._recording.close()
        except RuntimeError as error:
            return self._give_up(error)
        return whole or self._give_up("an operation cannot be recorded")

    def replay(self) -> None:
        """Do what was recorded."""
        assert self._graph is not None, "nothing was recorded"
        with torch.cuda.device(self._device):
            self._graph.replay()

    def _give_up(self, reason: object) -> bool:
        with contextlib.suppress(RuntimeError):
            self._recording.close()
        first = (str(reason).splitlines() or ["no reason given"])[0]
        warnings.warn(f"no CUDA graph could be made ({first}); it goes on without, more slowly", stacklevel=2)
        return False


def recorder(device: torch.device) -> CudaRecorder | None:
    """What records the work of `device`, if that can be done there."""
    if device.type != "cuda" or os.environ.get(SWITCH) == "0":
        return None
    return CudaRecorder(device)


def queues(device: torch.device) -> bool:
    """Whether work on `device` is only queued, so that reading a number waits for all of it."""
    return device.type == "cuda"
