"""The build backend (PEP 517): maturin's, run so that it finds the interpreter and the torch it builds for.

torch-sys' build script asks whichever ``python`` or ``python3`` comes first on PATH for torch, and runs again
only when the *value* of LIBTORCH_USE_PYTORCH changes. Left alone, it fails from a virtual environment that is
not activated, takes another Python's torch, and after an isolated build links against a folder that is gone.
So, around each build, this module

- puts commands named ``python`` and ``python3`` first on PATH that run this very interpreter,
- sets LIBTORCH_USE_PYTORCH to the folder of this interpreter's torch, which differs wherever torch differs,
- stops with one plain sentence when torch is absent or is not the version that the crates are made for.
"""

from __future__ import annotations

import os
import shlex
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata, util
from pathlib import Path
from typing import Any, NoReturn

import maturin

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # maturin depends on it there

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

# maturin's own answers: puccinialin, which brings a Rust toolchain, where cargo is missing.
get_requires_for_build_wheel = maturin.get_requires_for_build_wheel
get_requires_for_build_editable = maturin.get_requires_for_build_editable
get_requires_for_build_sdist = maturin.get_requires_for_build_sdist

ConfigSettings = Mapping[str, Any] | None


def build_wheel(
    wheel_directory: str, config_settings: ConfigSettings = None, metadata_directory: str | None = None
) -> str:
    """Build a wheel against this interpreter's torch."""
    with _torch_environment():
        return maturin.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(
    wheel_directory: str, config_settings: ConfigSettings = None, metadata_directory: str | None = None
) -> str:
    """Build for ``pip install --editable`` against this interpreter's torch."""
    with _torch_environment():
        return maturin.build_editable(wheel_directory, config_settings, metadata_directory)


def build_sdist(sdist_directory: str, config_settings: ConfigSettings = None) -> str:
    """Pack the sources; torch is not needed."""
    with _this_interpreter_first_on_path():
        return maturin.build_sdist(sdist_directory, config_settings)


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: ConfigSettings = None) -> str:
    """Write the wheel's metadata; nothing is compiled."""
    with _this_interpreter_first_on_path():
        return maturin.prepare_metadata_for_build_wheel(metadata_directory, config_settings)


prepare_metadata_for_build_editable = prepare_metadata_for_build_wheel


@contextmanager
def _torch_environment() -> Iterator[None]:
    torch_folder = _checked_torch_folder()
    _check_python_headers()
    with _this_interpreter_first_on_path(), _environment(LIBTORCH_USE_PYTORCH=torch_folder):
        yield


def _checked_torch_folder() -> str:
    wanted = _pinned_torch()
    remedy = f'install it with: {sys.executable} -m pip install "torch=={wanted}"'
    spec = util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        _stop(f"it is built against torch {wanted}, and {sys.executable} has no torch; {remedy}")
    found = metadata.version("torch")
    if found.split("+")[0] != wanted:
        _stop(f"it is built against torch {wanted}, and {sys.executable} has torch {found}; {remedy}")
    return str(Path(next(iter(spec.submodule_search_locations))).resolve())


def _pinned_torch() -> str:
    """The version in ``torch==...`` of pyproject.toml's build requirements."""
    pyproject = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    requirements: list[str] = pyproject["build-system"]["requires"]
    return next(r.removeprefix("torch==") for r in requirements if r.startswith("torch=="))


def _check_python_headers() -> None:
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.exists():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        _stop(
            f"{sys.executable} has no C headers ({header} is missing); "
            f"on Debian and Ubuntu install them with: apt install python{version}-dev"
        )


def _stop(message: str) -> NoReturn:
    # A build front end prints a traceback for an exception; one sentence is easier to act on.
    sys.exit(f"rust_diffusion cannot be built here: {message}")


@contextmanager
def _this_interpreter_first_on_path() -> Iterator[None]:
    """Make ``python``, ``python3`` and this interpreter's scripts (maturin among them) the first found."""
    with tempfile.TemporaryDirectory(prefix="rust-diffusion-python-") as shims:
        if os.name == "posix":
            for name in ("python", "python3"):
                shim = Path(shims, name)
                shim.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n', encoding="utf-8")
                shim.chmod(0o755)
        # In an isolated build maturin lies in the front end's own folder, which is on PATH already and stays
        # before this interpreter's scripts. On Windows python.exe itself is found: no shim is needed.
        folders = [shims, os.environ.get("PATH", os.defpath), sysconfig.get_path("scripts")]
        if os.name == "nt":
            folders.insert(0, str(Path(sys.executable).parent))
        with _environment(PATH=os.pathsep.join(folders)):
            yield


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


if __name__ == "__main__":
    # For the Makefile: unlike pip, this shows the compiler's progress. The wheel is tagged with the oldest
    # glibc that it runs with; what a front end asks for, maturin tags as for this machine only.
    os.makedirs("dist", exist_ok=True)
    build_wheel("dist", {"maturin.build-args": "--compatibility pypi"})
