"""The build backend (PEP 517): maturin's, run so that it finds the interpreter and the torch it builds for.

torch-sys' build script asks whichever ``python`` or ``python3`` comes first on PATH for torch, and runs again
only when the *value* of LIBTORCH_USE_PYTORCH changes. Left alone, it fails from a virtual environment that is
not activated, takes another Python's torch, and after an isolated build links against a folder that is gone.
So this module

- builds for the torch at hand, wherever a front end hides it (``torches``), and asks for one only where none
  that the sources are made for is found: nobody's torch is replaced;
- puts commands named ``python`` and ``python3`` first on PATH that run this very interpreter, and sets
  LIBTORCH_USE_PYTORCH to the folder of that torch, which differs wherever torch differs;
- has cargo take a copy of torch-sys that fits that torch (``torch_sys``);
- puts the library into a folder named after its torch, and has the package ask for that minor (``wheels``).
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch_sys
import torches
import wheels
from stopping import stop

try:
    import maturin
except ModuleNotFoundError:
    # Without build isolation what pyproject.toml requires is left to the user.
    pyproject = Path(__file__).parents[1] / "pyproject.toml"
    [line] = re.findall(r"^requires = .*", pyproject.read_text("utf-8"), re.MULTILINE)
    required = " ".join(re.findall(r'"[^"]+"', line))
    stop(f"{sys.executable} has no maturin; install it with: python -m pip install {required}")

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

# maturin's own answer: puccinialin, which brings a Rust toolchain, where cargo is missing.
get_requires_for_build_sdist = maturin.get_requires_for_build_sdist

ConfigSettings = Mapping[str, Any] | None

PACKAGE = Path("python/rust_diffusion")


def get_requires_for_build_wheel(config_settings: ConfigSettings = None) -> list[str]:
    """Ask for what maturin asks for, and for torch only where none that fits is found."""
    requirements: list[str] = maturin.get_requires_for_build_wheel(config_settings)
    if os.environ.get("RUST_DIFFUSION_TORCH"):
        torch_at_hand()  # or the end: another torch would not be taken
    elif not any(map(torches.in_range, torches.at_hand())):
        # The newest, unless a constraint says otherwise; uv, which asks no backend, installs the same.
        requirements.append(torches.RANGE)
    return requirements


get_requires_for_build_editable = get_requires_for_build_wheel


def build_wheel(
    wheel_directory: str, config_settings: ConfigSettings = None, metadata_directory: str | None = None
) -> str:
    """Build a wheel against the torch at hand."""
    torch = torch_at_hand()
    with building_for(torch):
        wheel: str = maturin.build_wheel(wheel_directory, _for(torch, config_settings), metadata_directory)
    wheels.put_in_order(Path(wheel_directory, wheel), torch.minor, torch.requirement)
    return wheel


def build_editable(
    wheel_directory: str, config_settings: ConfigSettings = None, metadata_directory: str | None = None
) -> str:
    """Build for ``pip install --editable`` against the torch at hand."""
    torch = torch_at_hand()
    with building_for(torch):
        wheel: str = maturin.build_editable(wheel_directory, _for(torch, config_settings), metadata_directory)
    wheels.put_in_order(Path(wheel_directory, wheel), torch.minor, torch.requirement)
    wheels.shelve(PACKAGE, torch.minor)
    return wheel


def build_sdist(sdist_directory: str, config_settings: ConfigSettings = None) -> str:
    """Pack the sources; torch is not needed."""
    with _this_interpreter_first_on_path():
        return maturin.build_sdist(sdist_directory, config_settings)


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: ConfigSettings = None) -> str:
    """Write the wheel's metadata, which asks for the torch at hand; nothing is compiled."""
    torch = torch_at_hand()
    with _this_interpreter_first_on_path(), environment(**_rust()):
        folder: str = maturin.prepare_metadata_for_build_wheel(metadata_directory, config_settings)
    file = Path(metadata_directory, folder, "METADATA")
    file.write_bytes(wheels.asking_for(torch.requirement, file.read_bytes()))
    return folder


prepare_metadata_for_build_editable = prepare_metadata_for_build_wheel


def torch_at_hand() -> torches.Torch:
    """Choose the first torch at hand that the sources are made for, or stop with what to do."""
    found = []
    for torch in torches.at_hand():
        if torches.in_range(torch):
            return torch
        found.append(torch)
    (_, oldest), (_, newest) = torches.OLDEST, torches.NEWEST
    if named := os.environ.get("RUST_DIFFUSION_TORCH"):
        stop(
            f"it is made for torch 2.{oldest} to 2.{newest}, and RUST_DIFFUSION_TORCH names torch "
            f"{found[0].version} in {named}; name another, or unset it"
        )
    has = f"has torch {found[0].version}" if found else "has no torch"
    stop(
        f"it is made for torch 2.{oldest} to 2.{newest}, and {sys.executable} {has}; "
        f'install it with: {sys.executable} -m pip install "{torches.RANGE}"'
    )


def _for(torch: torches.Torch, config_settings: ConfigSettings = None) -> dict[str, Any]:
    """Add to what maturin is told what cargo is told for this torch."""
    arguments = [*maturin.get_maturin_pep517_args(config_settings), *cargo_arguments(torch)]
    return {**(config_settings or {}), "maturin.build-args": arguments}


def cargo_arguments(torch: torches.Torch) -> list[str]:
    """What cargo is told for this torch."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", "target"))
    return torch_sys.cargo_arguments(torch, target)


@contextmanager
def building_for(torch: torches.Torch) -> Iterator[None]:
    """Let torch-sys' build script find this interpreter and this torch."""
    _check_python_headers()
    with _this_interpreter_first_on_path(), environment(LIBTORCH_USE_PYTORCH=str(torch.folder), **_rust()):
        yield


def _rust() -> dict[str, str]:
    """What puccinialin sets for the Rust that it brings where there is none."""
    if shutil.which("cargo"):
        return {}
    try:
        from puccinialin import setup_rust
    except ModuleNotFoundError:
        stop(
            "there is no Rust toolchain (cargo is not on PATH); get it from https://rustup.rs, "
            f"or with: {sys.executable} -m pip install puccinialin"
        )
    return dict(setup_rust())


def _check_python_headers() -> None:
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.exists():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        stop(
            f"{sys.executable} has no C headers ({header} is missing); "
            f"on Debian and Ubuntu install them with: apt install python{version}-dev"
        )


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
        with environment(PATH=os.pathsep.join(folders)):
            yield


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set environment variables for a while."""
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
