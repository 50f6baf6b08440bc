"""Phantoms: images drawn by rule."""

from __future__ import annotations

import torch
from torch import Tensor

from rust_diffusion import _native
from rust_diffusion.data.images import Bar, check_dtype, check_threads
from rust_diffusion.support import checks


def phantoms(
    n: int,
    size: int = 64,
    seed: int = 0,
    *,
    dtype: torch.dtype = torch.float32,
    threads: int | None = None,
    progress: bool = True,
) -> Tensor:
    """Draw chest-CT-like slices by rule.

    They show the body with fat and muscle, lungs with vessels, heart, liver, spine, ribs and the couch.
    Sixteen slices are cut from each person, at heights from the tips of the lungs to the liver. Slice k
    depends on `seed`, `size` and k alone, on any machine and with any number of threads.

    Parameters
    ----------
    n : int
        How many slices, at least 1.
    size : int
        Side in pixels, 16 to 512.
    seed : int
        0 to 2**64 - 1.
    dtype : torch.dtype
        A floating dtype for values in [-1, 1], or ``torch.uint8`` for grey levels.
    threads : int, optional
        Threads that draw; by default one per core.
    progress : bool
        Show a progress bar if it takes more than two seconds.

    Returns
    -------
    Tensor
        Shape (n, 1, size, size).

    Raises
    ------
    ValueError, TypeError
        If an argument cannot be used.
    """
    n = checks.integer("n", n, 1)
    size = checks.integer("size", size, 16, 512)
    seed = checks.integer("seed", seed, 0, 2**64 - 1)
    dtype = check_dtype(dtype)
    with Bar("Phantoms", n, progress) as on_progress:
        values = _native.phantoms(
            n,
            size,
            seed,
            levels=dtype == torch.uint8,
            threads=check_threads(threads),
            on_progress=on_progress,
        )
    return torch.from_numpy(values).view(n, 1, size, size).to(dtype)


def shepp_logan(size: int = 64, *, threads: int | None = None) -> Tensor:
    """Draw the head phantom of Shepp and Logan (1974), with the contrasts of Toft (1996).

    Parameters
    ----------
    size : int
        Side in pixels, 1 to 4096.
    threads : int, optional
        Threads that draw; by default one per core.

    Returns
    -------
    Tensor
        Float32 in [-1, 1], shape (1, 1, size, size).

    Raises
    ------
    ValueError, TypeError
        If an argument cannot be used.
    """
    size = checks.integer("size", size, 1, 4096)
    return torch.from_numpy(_native.shepp_logan(size, check_threads(threads))).view(1, 1, size, size)
