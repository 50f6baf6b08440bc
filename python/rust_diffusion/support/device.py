"""The device to compute on."""

from __future__ import annotations

import torch


def get_device() -> str:
    """Name the best device of this machine: "cuda" if there is one, else "mps", else "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
