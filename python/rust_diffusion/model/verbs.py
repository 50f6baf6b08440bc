"""What the rooms above lend to the model: it has the methods, they have the code, and no import runs upwards.

`sample`, `eps`, `x0`, `save_pretrained` and `from_pretrained` of a network are looked up here when they are called;
`import rust_diffusion` loads the rooms that lend them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

_F = TypeVar("_F", bound=Callable[..., Any])

_LENT: dict[str, Callable[..., Any]] = {}


def lend(function: _F) -> _F:
    """Let the model call `function` by its name; used as a decorator."""
    _LENT[function.__name__] = function
    return function


def lent(name: str) -> Callable[..., Any]:
    """Return what was lent under `name`."""
    return _LENT[name]
