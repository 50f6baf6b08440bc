"""One run at a time for each set of files."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# POSIX locks do not part two runs of the same process.
_held: set[str] = set()
_guard = threading.Lock()


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file `path`. The lock ends with the process, however it dies: none is ever left behind.

    Raises
    ------
    RuntimeError
        If another run holds it.
    """
    # One breath for looking and taking, so that of two threads one is refused.
    with _guard:
        key = os.path.realpath(path)
        if key in _held:
            raise RuntimeError(_message(path, "of this process"))
        handle = _open(path)
        _held.add(key)
    try:
        yield
    finally:
        with _guard:
            _held.discard(key)
            # Removed while still held, so that nobody's lock is removed but our own.
            with contextlib.suppress(OSError):
                path.unlink()
            os.close(handle)


def _open(path: Path) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _take(handle, path)
            if _is_still(handle, path):
                os.ftruncate(handle, 0)
                os.write(handle, f"{os.getpid()}\n".encode())
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _take(handle: int, path: Path) -> None:
    if fcntl is None:
        return
    try:
        # Not flock: that one is inherited by a loader's workers, which outlive a killed run by seconds.
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            holder = os.read(handle, 32).decode(errors="replace").strip()
            raise RuntimeError(_message(path, f"(process {holder})" if holder else "")) from None
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
            raise  # those: a file system without locks, such as a mounted cloud folder


def _is_still(handle: int, path: Path) -> bool:
    """Whether the locked file is the one at `path`, and not one that its last holder has just removed."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _message(path: Path, holder: str) -> str:
    return (
        f"another run {holder} is writing {path.parent / path.stem}.* at this moment; wait for it, "
        f"or choose another weights_dir or name".replace("run  is", "run is")
    )
