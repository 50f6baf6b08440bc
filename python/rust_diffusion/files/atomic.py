"""The one way in which a file is written: whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[io.BytesIO]:
    """Give a buffer, and make what was written into it the content of `path`: the old file stands there or the new one.

    The content is first gathered in memory, so that nothing touches the disk before it is complete, and so that a full
    disk is reported by the system and not in the words of whatever library produced the content.

    Raises
    ------
    OSError
        If the file cannot be written; the message names it and says whether an earlier one is still there.
    """
    buffer = io.BytesIO()
    yield buffer
    _write(Path(path), buffer.getbuffer())


def clear_leftovers(path: Path) -> None:
    """Remove what processes that were killed while writing `path` left beside it. Nobody may be writing it now."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        leftover.unlink(missing_ok=True)


def _write(path: Path, content: memoryview) -> None:
    # a name of its own for each process and thread: several may write the same file, and the last one wins
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            before = "; what was saved before is still there" if path.exists() else ""
            raise OSError(error.errno, f"{os.strerror(error.errno or 0)}{before}", str(path)) from error
        raise


def _sync_folder(folder: Path) -> None:
    """Bring the new name to the disk too, where the file system knows how."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
