"""The torches that the package has libraries for, and the choice of the one that fits the torch at hand.

A library linked with one minor version of torch can load beside another and then read its structures wrongly, in
silence, or fail with a mangled symbol name. So libraries lie apart, each in a folder that is named after its torch,
and Python is shown the one that fits and no other.
"""

import shlex
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

#: The minor versions of torch that the sources are made for, the oldest and the newest.
OLDEST, NEWEST = (2, 10), (2, 15)

ENGINES = Path(__file__).parents[1] / "engines"


def check_torch() -> None:
    """Import torch, whose libraries the extension needs, and let Python find the extension linked with it.

    Raises
    ------
    ImportError
        If torch is not installed or cannot be imported, or if no library is linked with its minor version.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        needs = f"rust_diffusion is linked with torch {_named(linked())}, and no torch is installed"
        raise ImportError(f"{needs}. {_install_torch()}", name="torch") from None

    found = minor(str(torch.__version__))
    if found not in linked():
        is_linked = f"rust_diffusion is linked with torch {_named(linked())}"
        remedy = _compile(found) if OLDEST <= found <= NEWEST else _install_torch()
        raise ImportError(
            f"{is_linked}, but torch {torch.__version__} is installed. {remedy} (then restart Python)",
            name="torch",
        )
    folder, places = str(_folder(found)), sys.modules["rust_diffusion"].__path__
    if folder not in places:
        places.insert(0, folder)


def minor(version_text: str) -> tuple[int, int]:
    """Read (2, 11) from a version such as "2.11.0+cpu"."""
    major, minor = version_text.split(".")[:2]
    return int(major), int(minor)


def linked() -> list[tuple[int, int]]:
    """List the minor versions of torch that there is a library for, and for this Python."""
    folders = [
        path
        for path in ENGINES.glob("torch-*")
        if any((path / f"_native{s}").exists() for s in EXTENSION_SUFFIXES)
    ]
    return sorted(minor(path.name.removeprefix("torch-")) for path in folders)


def _folder(torch: tuple[int, int]) -> Path:
    return ENGINES / f"torch-{torch[0]}.{torch[1]}"


def _named(torches: list[tuple[int, int]]) -> str:
    return ", ".join(f"{major}.{minor}" for major, minor in torches) or "of no version for this Python"


def _install_torch() -> str:
    major, minor = max(linked(), default=NEWEST)
    return f'Install the matching one with: {_pip_install()} "torch=={major}.{minor}.*"'


def _compile(torch: tuple[int, int]) -> str:
    return (
        f"Compile it for torch {torch[0]}.{torch[1]}, in the folder of its sources, with: "
        f"{_pip_install()} --no-deps --force-reinstall ."
    )


def _pip_install() -> str:
    """The command for this very Python: a bare ``pip`` may be another's. Environments made by uv have none."""
    python = shlex.quote(sys.executable)
    return f"{python} -m pip install" if find_spec("pip") else f"uv pip install --python {python}"


def here() -> str:
    """Name the versions of this package and of torch, for files to keep."""
    import torch

    return f"rust-diffusion {version('rust-diffusion')}, torch {torch.__version__}"
