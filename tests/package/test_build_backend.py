"""The build backend: which Python and which torch a build sees, and what it does where there is none."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tools import ROOT


@pytest.fixture
def backend(monkeypatch):
    pytest.importorskip("maturin", reason="the build backend needs maturin")
    monkeypatch.chdir(ROOT)  # where a front end calls it
    monkeypatch.syspath_prepend(ROOT / "build_backend")
    return importlib.import_module("rust_diffusion_build")


@pytest.fixture
def torch_at_hand(backend):
    return backend.torch_at_hand()


def refusal(function) -> str:
    with pytest.raises(SystemExit) as refused:
        function()
    return str(refused.value)


def has(backend, monkeypatch, *found: str) -> None:
    """Let these torches be the ones that are found."""
    torches = [backend.torches.Torch(version, Path(f"/of/{version}")) for version in found]
    monkeypatch.setattr(backend.torches, "at_hand", lambda: iter(torches))


@pytest.fixture
def foreign_python_first(monkeypatch, tmp_path):
    for name in ("python", "python3"):
        script = tmp_path / name
        script.write_text("#!/bin/sh\necho foreign\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.skipif(os.name != "posix", reason="on Windows python.exe is found beside the interpreter")
@pytest.mark.parametrize("name", ["python", "python3"])
def test_torch_sys_finds_the_interpreter_that_builds(backend, torch_at_hand, foreign_python_first, name):
    with backend.building_for(torch_at_hand):
        found = subprocess.run(
            [shutil.which(name), "-c", "import sys; print(sys.executable, sys.prefix)"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    assert found.stdout.split() == [sys.executable, sys.prefix]


def test_maturin_is_found_where_the_environment_is_not_activated(backend, torch_at_hand, monkeypatch):
    monkeypatch.setattr(backend, "_rust", dict)  # cargo is not on that path
    monkeypatch.setenv("PATH", os.defpath)
    with backend.building_for(torch_at_hand):
        assert shutil.which("maturin")


def test_torch_sys_is_told_the_folder_of_this_torch(backend, torch_at_hand, monkeypatch):
    # "1" is what .cargo/config.toml and tch's manual say; it would not change with the interpreter.
    monkeypatch.setenv("LIBTORCH_USE_PYTORCH", "1")
    with backend.building_for(torch_at_hand):
        assert Path(os.environ["LIBTORCH_USE_PYTORCH"]).samefile(Path(torch.__file__).parent)
    assert os.environ["LIBTORCH_USE_PYTORCH"] == "1"


def test_the_environment_is_put_back_when_a_build_fails(backend, torch_at_hand, monkeypatch):
    monkeypatch.delenv("LIBTORCH_USE_PYTORCH", raising=False)
    before = dict(os.environ)
    with pytest.raises(RuntimeError), backend.building_for(torch_at_hand):
        assert dict(os.environ) != before
        raise RuntimeError("the compiler failed")
    assert dict(os.environ) == before


def test_the_torch_of_this_python_is_the_first_at_hand(backend, torch_at_hand):
    assert torch_at_hand.version.split("+")[0] == torch.__version__.split("+")[0]
    assert torch_at_hand.folder.samefile(Path(torch.__file__).parent) and torch_at_hand.importable


def test_a_torch_that_isolation_hides_is_found(backend, monkeypatch, tmp_path):
    """As pip does it: a sitecustomize on PYTHONPATH takes the environment's packages away."""
    hide = "import sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n"
    (tmp_path / "sitecustomize.py").write_text(hide)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = backend.torch_at_hand()
    assert found.folder.samefile(Path(torch.__file__).parent) and not found.importable
    assert not [r for r in backend.get_requires_for_build_wheel() if r.startswith("torch")]


def test_behind_uv_the_torch_of_the_active_environment_is_found(backend, monkeypatch, tmp_path):
    """uv builds in an environment of its own, whose folder comes first on PATH; the active one's comes next."""
    active = tmp_path / "active"
    (active / "bin").mkdir(parents=True)
    (active / "pyvenv.cfg").touch()
    (active / "bin/python").write_text('#!/bin/sh\necho \'["2.14.1+cpu", "/of/active"]\'\n')
    (active / "bin/python").chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), str(active / "bin")]))
    monkeypatch.delenv("UV", raising=False)
    assert "2.14.1+cpu" not in [found.version for found in backend.torches.at_hand()]
    monkeypatch.setenv("UV", "/somewhere/uv")
    assert "2.14.1+cpu" in [found.version for found in backend.torches.at_hand()]


def test_a_folder_that_is_named_is_the_only_torch_at_hand(backend, monkeypatch, tmp_path):
    (tmp_path / "version.py").write_text("__version__ = '2.12.1+cpu'\ndebug = False\n")
    monkeypatch.setenv("RUST_DIFFUSION_TORCH", str(tmp_path))
    [found] = backend.torches.at_hand()
    assert (found.version, found.folder, found.minor) == ("2.12.1+cpu", tmp_path.resolve(), (2, 12))
    assert found.requirement == "torch==2.12.*"


@pytest.mark.parametrize("found", [(), ("2.9.1",), ("2.16.0", "1.13.1")])
def test_the_newest_torch_is_asked_for_where_none_fits(backend, monkeypatch, found):
    has(backend, monkeypatch, *found)
    asked = [r for r in backend.get_requires_for_build_wheel() if r.startswith("torch")]
    assert asked == ["torch>=2.10,<2.16"]


def test_the_first_torch_that_fits_is_taken(backend, monkeypatch):
    has(backend, monkeypatch, "2.9.0", "2.13.0+cpu", "2.11.0")
    assert backend.torch_at_hand().minor == (2, 13)
    assert not [r for r in backend.get_requires_for_build_wheel() if r.startswith("torch")]


@pytest.mark.parametrize(("found", "said"), [((), "has no torch"), (("2.9.1+cpu",), "has torch 2.9.1+cpu")])
def test_without_a_torch_that_fits_the_remedy_is_said(backend, monkeypatch, found, said):
    has(backend, monkeypatch, *found)
    message = refusal(backend.torch_at_hand)
    assert "made for torch 2.10 to 2.15" in message and said in message
    assert f'{sys.executable} -m pip install "torch>=2.10,<2.16"' in message


def test_missing_headers_are_named_with_the_package_that_has_them(
    backend, torch_at_hand, monkeypatch, tmp_path
):
    monkeypatch.setattr(backend.sysconfig, "get_path", lambda name: str(tmp_path))
    said = refusal(lambda: backend.building_for(torch_at_hand).__enter__())
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
