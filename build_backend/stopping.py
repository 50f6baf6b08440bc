"""How a build ends that cannot go on."""

from __future__ import annotations

import sys
from typing import NoReturn

__all__ = ["stop"]


def stop(message: str) -> NoReturn:
    """End the build with one sentence."""
    # A build front end prints a traceback for an exception; one sentence is easier to act on.
    sys.exit(f"rust_diffusion cannot be built here: {message}")
