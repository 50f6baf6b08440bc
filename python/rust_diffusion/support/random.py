"""Random states, taken and put back: torch's, Python's and NumPy's, which a data set's transforms may use."""

from __future__ import annotations

import contextlib
import operator
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

CPU = torch.device("cpu")


def capture(
    device: torch.device = CPU, generators: Sequence[torch.Generator] = (), torch_only: bool = False
) -> dict[str, Any]:
    """All random states, in types that `torch.load(..., weights_only=True)` reads.

    `device` is the one that draws besides the CPU; `generators` are a loader's own. `torch_only` leaves out Python's
    and NumPy's, which take a tenth of a millisecond.
    """
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "generators": [generator.get_state() for generator in generators],
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    if not torch_only:
        name, keys, place, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002 - the global one
        words = torch.from_numpy(np.asarray(keys).astype(np.int64))
        state["numpy"] = (str(name), words, place, has_gauss, float(gauss))
        state["python"] = random.getstate()
    return state


def restore(
    state: dict[str, Any], device: torch.device = CPU, generators: Sequence[torch.Generator] = ()
) -> None:
    """Put back what `capture` took; the states of another kind of device are left out."""
    torch.set_rng_state(state["torch"])
    if "python" in state:
        version, words, gauss = state["python"]
        random.setstate((version, tuple(words), gauss))
    if "numpy" in state:
        name, keys, place, has_gauss, cached = state["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), place, has_gauss, cached))  # noqa: NPY002
    for generator, own in zip(generators, state["generators"], strict=False):
        generator.set_state(own)
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    elif "mps" in state and device.type == "mps":
        torch.mps.set_rng_state(state["mps"])


def check(state: Any) -> None:
    """Whether `restore` will take a state that comes out of a file; what it refuses raises its own errors.

    NumPy takes any place in its table of 624 words, and would read beside it.
    """
    place = operator.index(state["numpy"][2]) if "numpy" in state else 0
    if not 0 <= place <= 624:
        raise ValueError(f"NumPy's random state is at word {place} of 624")
    before = capture()
    try:
        restore({key: value for key, value in state.items() if key not in ("cuda", "mps")})
    finally:
        restore(before)
    for own in state["generators"]:
        torch.Generator().set_state(own)


def draw_seed() -> int:
    """A seed out of torch's global generator of the CPU."""
    return int(torch.randint(2**62, ()).item())


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Let torch's global generators begin at `seed`, and put them back afterwards."""
    before = capture(device, torch_only=True)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        restore(before, device)
