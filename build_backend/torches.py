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

from stopping import stop

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

#: Where the system tells what a process was started with.
PROCESSES = Path("/proc")

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
    behind pip's isolation, that of the environment which pip runs in; or, in an environment made for this build
    alone, that of the Python which uv installs for, or with which the environment was made. Where uv leaves open
    which Python that is, and their torches differ, the build ends.
    """
    if named := os.environ.get("RUST_DIFFUSION_TORCH"):
        if not Path(named, "version.py").is_file():
            stop(
                f"RUST_DIFFUSION_TORCH is {named}, which is no folder of a torch (no version.py lies in it); "
                "its Python tells the folder: python -c 'import torch; print(torch.__path__[0])'"
            )
        yield in_folder(Path(named))
        return
    yield from _of(sys.executable, dict(os.environ), importable=True)
    unhidden = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONNOUSERSITE")}
    pythons = dict.fromkeys([sys.executable, *_behind_this_environment()])
    hidden = [torch for python in pythons for torch in _of(python, unhidden, importable=False)]
    different = {torch.minor: torch for torch in hidden if in_range(torch)}
    if len(different) > 1:
        found = " or ".join(f"torch {torch.version} in {torch.folder}" for torch in different.values())
        stop(f"it could be for {found}; set RUST_DIFFUSION_TORCH to the folder of the one that it is for")
    yield from hidden


def _behind_this_environment() -> list[str]:
    """Name the Pythons that this one may be building for, if its environment was made for the build alone.

    The Python that an ordinary environment was made with may have a torch too, but what is built is not installed
    there.
    """
    environment = Path(sys.prefix)
    base = getattr(sys, "_base_executable", None) or sys.executable
    if environment.parent.name.startswith("builds-v"):  # uv's, in its cache
        return _behind_uv(base)
    # Those of `build`, and of pip with --use-feature=venv-isolation.
    return [base] if "build-env-" in environment.name else []


def _behind_uv(base: str) -> list[str]:
    """Find the Python that uv installs for by uv's own rules, for it does not say; several where they leave it open."""
    command, values, folder = _told_to_uv()
    option = re.search(r"\0(?:--python[=\0]|-p[=\0]?)([^\0]+)", command)
    wanted = option[1] if option else values.get("UV_PYTHON")
    if wanted and (python := _python_at(folder / wanted)):
        return [python]
    if "\0--system\0" in command or values.get("UV_SYSTEM_PYTHON") in ("1", "true"):
        return [base]
    # conda's own environment, "base", counts as the system's.
    conda = None if values.get("CONDA_DEFAULT_ENV") == "base" else values.get("CONDA_PREFIX")
    active = [folder / place for place in (values.get("VIRTUAL_ENV"), conda) if place]
    if not command:
        # uv has put this environment into VIRTUAL_ENV; on PATH it comes before the one that was active.
        on_path = [Path(place).parent for place in values.get("PATH", "").split(os.pathsep)]
        active += [place for place in on_path if os.path.exists(place / "pyvenv.cfg")]
    nearest = [python for parent in (folder, *folder.parents) if (python := _python_at(parent / ".venv"))][:1]
    possible = [python for place in active if (python := _python_at(place))] + nearest + [base]
    # A version, which `wanted` is by now, can pass over the first; so do the commands that work on a project.
    return possible[:1] if "\0pip\0" in command and not wanted else possible


def _told_to_uv() -> tuple[str, dict[str, str], Path]:
    """What uv, which started this process, was started with: its command line, its environment and its folder.

    Where the system does not tell (only Linux does), what of it has come down to this process.
    """
    uv = PROCESSES / str(os.getppid())
    try:
        command, values = (os.fsdecode((uv / name).read_bytes()) for name in ("cmdline", "environ"))
        return command, dict(v.partition("=")[::2] for v in values.split("\0")), (uv / "cwd").readlink()
    except OSError:
        return "", dict(os.environ), Path.cwd()


def _python_at(place: Path) -> str | None:
    """Find the Python that a path names, itself or as the folder of an environment."""
    # `which`, unlike pathlib, takes what may not be read for what is not there.
    folders = os.pathsep.join(str(folder) for folder in (place / "bin", place / "Scripts", place))
    return shutil.which(str(place)) or shutil.which("python", path=folders)


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
