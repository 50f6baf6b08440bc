"""One run at a time for each set of files."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

#: Seconds to try for: long enough for a holder that is just leaving to be gone.
_PATIENCE, _PAUSE = 0.1, 0.02
#: What file systems without locks answer, such as mounted cloud folders.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file `path`. The lock ends with the process, however that dies: a file left behind locks nothing.

    Raises
    ------
    RuntimeError
        If another run, of this process or another one, holds it.
    """
    lock = FileLock(path, timeout=_PATIENCE, thread_local=False)
    try:
        lock.acquire(poll_interval=_PAUSE)
    except Timeout:
        raise RuntimeError(_message(path, _holder(path))) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    try:
        with contextlib.suppress(OSError):  # on Windows nobody may write to a locked file
            path.write_text(f"{os.getpid()}\n")
        yield
    finally:
        # removed while still held, so that nobody's lock is removed but our own
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()


def _holder(path: Path) -> str:
    """Return the process that the file names, if it can be read and names one."""
    with contextlib.suppress(OSError):
        content = path.read_bytes()[:32].strip()
        return content.decode() if content.isdigit() else ""
    return ""


def _message(path: Path, holder: str) -> str:
    who = {"": "", str(os.getpid()): " of this process"}.get(holder, f" (process {holder})")
    return (
        f"another run{who} is writing {path.parent / path.stem}.* at this moment; wait for it, or choose another "
        f"weights_dir= or name="
    )
