"""What stands around a long computation: messages for a device in trouble, and torch's switches for equal bits."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.amp.autocast_mode import is_autocast_available

from rust_diffusion.support.warning import first_line

#: What cuBLAS reads once, before its first product; either value makes its sums the same each time.
CUBLAS, CUBLAS_VALUES = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")

#: How torch and its parts say that memory has run out; the last is oneDNN's, which gives no reason.
_OUT_OF_MEMORY = (
    "out of memory",
    "DefaultCPUAllocator",
    "not enough memory",
    "bad_alloc",
    "could not create a primitive",
)


@contextlib.contextmanager
def enough_memory(advice: Callable[[], str]) -> Iterator[None]:
    """Turn running out of memory, on any device, into a MemoryError that ends in `advice()`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error).strip()
        if not isinstance(error, MemoryError) and not any(words in text for words in _OUT_OF_MEMORY):
            raise
        raise MemoryError(f"not enough memory: {advice()} ({first_line(error)})") from error


def try_batch_of(images: int, where: str) -> str:
    """Say which batch size to try after one of `images`."""
    if images <= 1:
        return "not even one image fits; take smaller images or a smaller network"
    return f"{images} images at a time do not fit; try {where.format(images // 2)}"


@contextlib.contextmanager
def device_errors(saved: Callable[[], Path | None]) -> Iterator[None]:
    """Say after a CUDA error what can be done: the process has lost the device, the files are good."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if "CUDA error" not in text or isinstance(error, torch.OutOfMemoryError):
            raise
        path = saved()
        files = f"{path} is good: the same call goes on from it" if path else "nothing had been saved"
        raise RuntimeError(
            f"the GPU failed, and this process cannot use it any more. Restart Python; {files}. "
            f"({first_line(error)})"
        ) from error


@contextlib.contextmanager
def own_modes(device: torch.device) -> Iterator[None]:
    """Keep the caller's autocast and inference mode out: the engine has its own precision and keeps its tensors."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        if is_autocast_available(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        yield


def prepare_cublas() -> None:
    """Set what cuBLAS reads only once, while it has not been read; an answer of the user's own stays."""
    if not torch.cuda.is_initialized():
        os.environ.setdefault(CUBLAS, CUBLAS_VALUES[0])


@contextlib.contextmanager
def deterministic(wanted: bool, device: torch.device) -> Iterator[None]:
    """Make torch compute the same bits each time, and put its switches back afterwards.

    Raises
    ------
    RuntimeError
        If CUDA is in use already without the variable that cuBLAS reads only once.
    """
    if not wanted:
        yield
        return
    if device.type == "cuda" and os.environ.get(CUBLAS) not in CUBLAS_VALUES:
        raise RuntimeError(
            f"deterministic=True needs {CUBLAS}={CUBLAS_VALUES[0]} in the environment before CUDA is first used: "
            f"restart Python and begin with `import os; os.environ['{CUBLAS}'] = '{CUBLAS_VALUES[0]}'`"
        )
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False  # which algorithm is fastest differs from run to run
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark
