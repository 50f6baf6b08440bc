"""The build backend: which Python and which torch a build sees, and what it says without the right one."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rust_diffusion.support import versions
from tools import ROOT


@pytest.fixture
def backend(monkeypatch):
    pytest.importorskip("maturin", reason="the build backend needs maturin")
    monkeypatch.chdir(ROOT)  # where a front end calls it
    monkeypatch.syspath_prepend(ROOT / "build_backend")
    return importlib.import_module("rust_diffusion_build")


def refusal(backend) -> str:
    with pytest.raises(SystemExit) as refused, backend._torch_environment():
        pass
    return str(refused.value)


@pytest.fixture
def foreign_python_first(monkeypatch, tmp_path):
    for name in ("python", "python3"):
        script = tmp_path / name
        script.write_text("#!/bin/sh\necho foreign\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.skipif(os.name != "posix", reason="on Windows python.exe is found beside the interpreter")
@pytest.mark.parametrize("name", ["python", "python3"])
def test_torch_sys_finds_the_interpreter_that_builds(backend, foreign_python_first, name):
    with backend._torch_environment():
        found = subprocess.run(
            [shutil.which(name), "-c", "import sys; print(sys.executable, sys.prefix)"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    assert found.stdout.split() == [sys.executable, sys.prefix]


def test_maturin_is_found_where_the_environment_is_not_activated(backend, monkeypatch):
    monkeypatch.setenv("PATH", os.defpath)
    with backend._torch_environment():
        assert shutil.which("maturin")


def test_torch_sys_is_told_the_folder_of_this_torch(backend, monkeypatch):
    # "1" is what .cargo/config.toml and tch's manual say; it would not change with the interpreter.
    monkeypatch.setenv("LIBTORCH_USE_PYTORCH", "1")
    with backend._torch_environment():
        assert Path(os.environ["LIBTORCH_USE_PYTORCH"]).samefile(Path(torch.__file__).parent)
    assert os.environ["LIBTORCH_USE_PYTORCH"] == "1"


def test_the_environment_is_put_back_when_a_build_fails(backend, monkeypatch):
    monkeypatch.delenv("LIBTORCH_USE_PYTORCH", raising=False)
    before = dict(os.environ)
    with pytest.raises(RuntimeError), backend._torch_environment():
        assert dict(os.environ) != before
        raise RuntimeError("the compiler failed")
    assert dict(os.environ) == before


def test_another_torch_is_refused_with_the_remedy(backend, monkeypatch):
    monkeypatch.setattr(backend.metadata, "version", lambda name: "2.10.0+cpu")
    said = refusal(backend)
    assert f"built against torch {versions.TORCH}" in said and "has torch 2.10.0+cpu" in said
    assert f'{sys.executable} -m pip install "torch=={versions.TORCH}"' in said


def test_no_torch_is_said_with_the_remedy(backend, monkeypatch):
    monkeypatch.setattr(backend.util, "find_spec", lambda name: None)
    said = refusal(backend)
    assert "has no torch" in said and f'pip install "torch=={versions.TORCH}"' in said


def test_missing_headers_are_named_with_the_package_that_has_them(backend, monkeypatch, tmp_path):
    monkeypatch.setattr(backend.sysconfig, "get_path", lambda name: str(tmp_path))
    said = refusal(backend)
    assert "Python.h" in said and f"python{sys.version_info[0]}.{sys.version_info[1]}-dev" in said


@pytest.mark.skipif(os.name != "posix", reason="the Makefile's helper is a shell script")
def test_the_makefile_finds_this_python():
    done = subprocess.run(
        ["sh", ROOT / "build_backend/pythons.sh", sys.executable], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [sys.executable]


@pytest.mark.skipif(os.name != "posix", reason="the Makefile's helper is a shell script")
def test_the_makefile_says_what_it_needs_where_there_is_no_python():
    done = subprocess.run(
        ["sh", ROOT / "build_backend/pythons.sh", "python2.7"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and done.stdout == ""
    assert "needs CPython 3.10, 3.11, 3.12 or 3.13" in done.stderr
