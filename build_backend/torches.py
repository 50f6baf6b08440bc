"""The torches that the package is built for, and the one that a build is for."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "DEFAULT",
    "NEWEST",
    "OLDEST",
    "RANGE",
    "Torch",
    "at_hand",
    "in_folder",
    "in_range",
    "newest",
]

#: The minor that `make` works with; the figures of the pages are of it.
DEFAULT = "2.11"

#: The oldest and the newest that the sources are made for; pyproject.toml asks for this range.
OLDEST, NEWEST = (2, 10), (2, 15)

#: The same as a requirement.
RANGE = f"torch>={OLDEST[0]}.{OLDEST[1]},<{NEWEST[0]}.{NEWEST[1] + 1}"

_TELL = """
import importlib.metadata, importlib.util, json, sys
torch = importlib.util.find_spec("torch")
if "%d.%d" % sys.version_info[:2] == sys.argv[1] and torch is not None and torch.submodule_search_locations:
    print(json.dumps([importlib.metadata.version("torch"), list(torch.submodule_search_locations)[0]]))
"""


@dataclass(frozen=True)
class Torch:
    """A torch to compile against."""

    version: str
    folder: Path
    #: Whether the Python that builds can import it: another's is hidden from it, or lacks CUDA's libraries.
    importable: bool = False

    @property
    def minor(self) -> tuple[int, int]:
        """(2, 11) of "2.11.0+cpu"."""
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)

    @property
    def requirement(self) -> str:
        """What a package linked with it asks for; patch releases have the same structures."""
        return "torch=={}.{}.*".format(*self.minor)


def newest() -> tuple[int, int]:
    """The newest in range that there is for this Python: torch 2.15 asks for 3.11."""
    return NEWEST if sys.version_info >= (3, 11) else (2, 14)


def in_range(torch: Torch) -> bool:
    """Whether the sources are made for this minor."""
    return OLDEST <= torch.minor <= NEWEST


def at_hand() -> Iterator[Torch]:
    """Find the torches that this build could be for, the likeliest first.

    RUST_DIFFUSION_TORCH names the folder of one, and then there is no other. Else it is this Python's own; or,
    behind pip's isolation, that of the environment which pip runs in; or, behind uv's, that of the environment
    which is active, or of ``.venv``; or that of the Python which this environment was made with.
    """
    if named := os.environ.get("RUST_DIFFUSION_TORCH"):
        yield in_folder(Path(named))
        return
    yield from _of(sys.executable, dict(os.environ), importable=True)
    unhidden = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONNOUSERSITE")}
    base = getattr(sys, "_base_executable", None) or sys.executable
    for python in dict.fromkeys([sys.executable, *_behind_uv(), base]):
        yield from _of(python, unhidden, importable=False)


def _behind_uv() -> Iterator[str]:
    """Where uv builds, in an environment of its own, find the Python that it installs for, as it does itself."""
    if "UV" not in os.environ:
        return
    on_path = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep)]
    for folder in [*on_path, Path(".venv/bin"), Path(".venv/Scripts")]:
        python = shutil.which("python", path=str(folder))
        is_environment = (folder.parent / "pyvenv.cfg").exists()
        if python and is_environment and folder.parent.resolve() != Path(sys.prefix).resolve():
            yield str(Path(python).absolute())


def in_folder(folder: Path) -> Torch:
    """Read the version of the torch in a folder without importing it."""
    told = re.search(
        r"^__version__ = ['\"]([^'\"]+)", (folder / "version.py").read_text("utf-8"), re.MULTILINE
    )
    if told is None:
        raise ValueError(f"{folder / 'version.py'} does not say which torch it is")
    return Torch(told[1], folder.resolve())


def _of(python: str, environment: dict[str, str], importable: bool) -> Iterator[Torch]:
    ask = [python, "-c", _TELL, "{}.{}".format(*sys.version_info)]
    done = subprocess.run(ask, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0 and done.stdout.strip():
        version, folder = json.loads(done.stdout)
        yield Torch(version, Path(folder).resolve(), importable)
