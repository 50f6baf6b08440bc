"""Warnings that point at the user's own line, however deep inside they arise, and what is quoted of errors."""

from __future__ import annotations

import sys
import warnings

_PACKAGE = __name__.partition(".")[0]


def warn(text: str, kind: type[Warning] = UserWarning) -> None:
    """Warn at the line that called the package."""
    level = 2
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == _PACKAGE:
        frame, level = frame.f_back, level + 1
    warnings.warn(text, kind, stacklevel=level)


def first_line(error: object, most: int | None = None) -> str:
    """What an error says first, at most so many characters; its kind, if it says nothing.

    What follows in errors of torch is a stack of its own.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]
