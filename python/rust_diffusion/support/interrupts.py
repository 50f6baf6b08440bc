"""Ctrl-C where it must not tear work apart: held back for a while, or noted and asked for later."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


def can_handle(number: int) -> bool:
    """Whether this thread may set a handler and put back the one before, which C may have set out of Python's sight."""
    return threading.current_thread() is threading.main_thread() and signal.getsignal(number) is not None


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold back Ctrl-C while files are written; it is raised afterwards."""
    if not can_handle(signal.SIGINT):
        yield
        return
    came: list[Any] = []
    before = signal.signal(signal.SIGINT, lambda *args: came.append(args))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came and callable(before):
        before(*came[0])


def told(text: str) -> KeyboardInterrupt:
    """Make an interrupt that says where it hit: IPython shows that line, and no traceback through the package."""
    error = KeyboardInterrupt(text)
    vars(error)["_render_traceback_"] = lambda: [f"KeyboardInterrupt: {text}"]
    return error


class Noted:
    """While entered, Ctrl-C and SIGTERM (torchrun's) are noted; the second of a kind takes its usual course."""

    def __init__(self) -> None:
        self._came: set[int] = set()
        self._before: dict[int, Any] = {}

    @property
    def came(self) -> bool:
        """Whether there was one."""
        return bool(self._came)

    def __enter__(self) -> Noted:
        self._came.clear()
        for number in (signal.SIGINT, signal.SIGTERM):
            if can_handle(number):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
        if kind is None:
            # nobody asked any more
            for number in self._came:
                signal.raise_signal(number)

    def _note(self, number: int, frame: Any) -> None:
        again = number in self._came
        self._came.add(number)
        if again:
            signal.signal(number, self._before[number])
            signal.raise_signal(number)

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        """Let Ctrl-C be raised as usual, for work that others wait for and that may be long."""
        before = self._before.get(signal.SIGINT)
        if before is None:
            yield
            return
        signal.signal(signal.SIGINT, before)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, self._note)
