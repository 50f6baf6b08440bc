"""The build backend: which Python and which torch a build sees, and what it does where there is none."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rust_diffusion.support.versions import NEWEST, OLDEST
from tools import ROOT

#: Out of range on either side.
TOO_OLD, TOO_NEW = f"2.{OLDEST[1] - 1}.1+cpu", f"2.{NEWEST[1] + 1}.0"


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


def python_with(torch: str | None, folder: Path) -> str:
    """An environment with a Python that says it has this torch, or none."""
    if os.name != "posix":
        pytest.skip("the Pythons made up here are shell scripts")
    python = folder / "bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho \'["{torch}", "/of/{torch}"]\'\n' if torch else "#!/bin/sh\n")
    python.chmod(0o755)
    (folder / "pyvenv.cfg").touch()
    return str(python)


def stand_in(monkeypatch, environment: Path, *, torch: str | None = None, base: str) -> None:
    """Let the Python that builds be that of this environment, made with a base that is to have a torch or none."""
    monkeypatch.setattr(sys, "executable", python_with(torch, environment))
    monkeypatch.setattr(sys, "prefix", str(environment))
    monkeypatch.setattr(sys, "_base_executable", base, raising=False)


@pytest.mark.parametrize(
    ("name", "found"),
    [("fresh", []), ("build-env-7ci2", ["2.10.0"]), ("pip-build-env-7ci2", ["2.10.0"])],
)
def test_the_torch_beneath_is_for_environments_made_for_the_build_alone(
    backend, monkeypatch, tmp_path, name, found
):
    """In a fresh environment without a torch the default is installed, whatever the system's Python has."""
    stand_in(monkeypatch, tmp_path / name, base=python_with("2.10.0", tmp_path / "system"))
    assert [torch.version for torch in backend.torches.at_hand()] == found


@pytest.fixture
def behind_uv(backend, monkeypatch, tmp_path):
    """What is at hand where uv, started with a command and variables in the folder `work`, builds in its cache."""
    work = tmp_path / "work"
    for name, version in {
        "other": "2.12.1",
        "active": "2.13.0",
        "conda": "2.14.0",
        ".venv": "2.11.0",
    }.items():
        python_with(version, work / name)
    base = python_with("2.10.0", tmp_path / "system")
    stand_in(monkeypatch, tmp_path / "cache/builds-v0/.tmp7ci2", base=base)
    monkeypatch.setattr(backend.torches, "PROCESSES", tmp_path / "proc")

    def found(command: str, **variables: str) -> list[str]:
        process = tmp_path / "proc" / str(os.getppid())
        process.mkdir(parents=True)
        (process / "cmdline").write_text("".join(f"{word}\0" for word in command.split()))
        (process / "environ").write_text("".join(f"{k}={v}\0" for k, v in variables.items()))
        (process / "cwd").symlink_to(work)
        return [torch.version for torch in backend.torches.at_hand()]

    return found


@pytest.mark.parametrize(
    ("command", "variables", "torch"),
    [
        ("uv pip install --python other .", {"VIRTUAL_ENV": "active"}, "2.12.1"),
        ("uv pip install --python=other/bin/python .", {"UV_PYTHON": "active"}, "2.12.1"),
        ("uv pip install -p other/bin/python --python-platform linux .", {}, "2.12.1"),
        ("uv pip install .", {"UV_PYTHON": "other", "VIRTUAL_ENV": "active"}, "2.12.1"),
        ("uv pip install .", {"VIRTUAL_ENV": "active", "CONDA_PREFIX": "conda"}, "2.13.0"),
        ("uv pip install .", {"CONDA_PREFIX": "conda", "CONDA_DEFAULT_ENV": "work"}, "2.14.0"),
        ("uv pip install .", {"CONDA_PREFIX": "conda", "CONDA_DEFAULT_ENV": "base"}, "2.11.0"),
        ("uv pip install --python-platform linux .", {}, "2.11.0"),
        ("uv pip install --system .", {"VIRTUAL_ENV": "active"}, "2.10.0"),
        ("uv pip install .", {"UV_SYSTEM_PYTHON": "1"}, "2.10.0"),
    ],
)
def test_behind_uv_the_torch_of_the_environment_that_it_installs_for_is_found(
    behind_uv, command, variables, torch
):
    assert behind_uv(command, **variables) == [torch]


def test_behind_uv_an_active_environment_without_a_torch_has_none(behind_uv, tmp_path):
    python_with(None, tmp_path / "new")
    assert behind_uv("uv pip install .", VIRTUAL_ENV=str(tmp_path / "new")) == []


@pytest.mark.parametrize("command", ["uv sync", "uv pip install --python 3.12 ."])
def test_behind_uv_a_choice_between_torches_is_left_to_the_user(behind_uv, command):
    message = refusal(lambda: behind_uv(command, VIRTUAL_ENV="active"))
    assert "torch 2.13.0 in /of/2.13.0" in message and "torch 2.11.0 in /of/2.11.0" in message
    assert "set RUST_DIFFUSION_TORCH to the folder" in message and "\n" not in message


def test_behind_uv_there_is_no_choice_between_torches_of_one_minor(behind_uv, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "_base_executable", python_with("2.11.1+cpu", tmp_path / "base"), raising=False)
    assert behind_uv("uv sync") == ["2.11.0", "2.11.1+cpu"]


def test_behind_uv_a_torch_that_was_installed_for_the_build_is_taken(
    backend, behind_uv, monkeypatch, tmp_path
):
    monkeypatch.setattr(sys, "executable", python_with("2.15.0", tmp_path / "building"))
    assert backend.torch_at_hand().version == "2.15.0"  # and nothing else is asked


def test_where_the_system_does_not_tell_of_uv_the_active_environment_is_found_on_path(
    backend, behind_uv, monkeypatch, tmp_path
):
    for variable in ("UV_PYTHON", "CONDA_PREFIX", "UV_SYSTEM_PYTHON"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    folders = [Path(sys.executable).parent, tmp_path / "work/active/bin"]
    monkeypatch.setenv("PATH", os.pathsep.join(map(str, folders)))
    monkeypatch.chdir(tmp_path)  # without a .venv
    monkeypatch.setattr(sys, "_base_executable", python_with(None, tmp_path / "base"), raising=False)
    assert [torch.version for torch in backend.torches.at_hand()] == ["2.13.0"]
    monkeypatch.chdir(tmp_path / "work")
    assert "RUST_DIFFUSION_TORCH" in refusal(lambda: list(backend.torches.at_hand()))


@pytest.mark.parametrize("place", ["nothing", "a file", "site-packages"])
def test_a_named_folder_that_is_no_torchs_is_told_by_the_variables_name(
    backend, monkeypatch, tmp_path, place
):
    (tmp_path / "a file").write_text("no torch")
    (tmp_path / "site-packages").mkdir()
    monkeypatch.setenv("RUST_DIFFUSION_TORCH", str(tmp_path / place))
    message = refusal(lambda: list(backend.torches.at_hand()))
    assert f"RUST_DIFFUSION_TORCH is {tmp_path / place}, which is no folder of a torch" in message


def test_a_named_torch_out_of_range_ends_the_build_before_anything_is_downloaded(
    backend, monkeypatch, tmp_path
):
    (tmp_path / "version.py").write_text("__version__ = '2.9.1'\n")
    monkeypatch.setenv("RUST_DIFFUSION_TORCH", str(tmp_path))
    message = refusal(backend.get_requires_for_build_wheel)
    assert f"RUST_DIFFUSION_TORCH names torch 2.9.1 in {tmp_path}; name another, or unset it" in message


def test_without_a_rust_toolchain_the_build_says_where_to_get_one(backend, monkeypatch):
    monkeypatch.setattr(backend.shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "puccinialin", None)
    message = refusal(backend._rust)
    assert "cargo is not on PATH" in message and "-m pip install puccinialin" in message


def test_a_folder_that_is_named_is_the_only_torch_at_hand(backend, monkeypatch, tmp_path):
    (tmp_path / "version.py").write_text("__version__ = '2.12.1+cpu'\ndebug = False\n")
    monkeypatch.setenv("RUST_DIFFUSION_TORCH", str(tmp_path))
    [found] = backend.torches.at_hand()
    assert (found.version, found.folder, found.minor) == ("2.12.1+cpu", tmp_path.resolve(), (2, 12))
    assert found.requirement == "torch==2.12.*"


@pytest.mark.parametrize("found", [(), (TOO_OLD,), (TOO_NEW, "1.13.1")])
def test_the_newest_torch_is_asked_for_where_none_fits(backend, monkeypatch, found):
    has(backend, monkeypatch, *found)
    asked = [r for r in backend.get_requires_for_build_wheel() if r.startswith("torch")]
    assert asked == [backend.torches.RANGE]


def test_the_first_torch_that_fits_is_taken(backend, monkeypatch):
    newest, oldest = ("{}.{}.0+cpu".format(*minor) for minor in (NEWEST, OLDEST))
    has(backend, monkeypatch, TOO_OLD, newest, oldest)
    assert backend.torch_at_hand().minor == NEWEST
    assert not [r for r in backend.get_requires_for_build_wheel() if r.startswith("torch")]


@pytest.mark.parametrize(("found", "said"), [((), "has no torch"), ((TOO_OLD,), f"has torch {TOO_OLD}")])
def test_without_a_torch_that_fits_the_remedy_is_said(backend, monkeypatch, found, said):
    has(backend, monkeypatch, *found)
    message = refusal(backend.torch_at_hand)
    assert f"made for torch 2.{OLDEST[1]} to 2.{NEWEST[1]}" in message and said in message
    assert f'{sys.executable} -m pip install "{backend.torches.RANGE}"' in message


def test_without_maturin_the_command_that_installs_it_is_said():
    """What pyproject.toml requires is left to the user by --no-build-isolation."""
    load = "import sys; sys.modules['maturin'] = None; sys.path.insert(0, 'build_backend'); import rust_diffusion_build"
    done = subprocess.run([sys.executable, "-c", load], cwd=ROOT, capture_output=True, text=True, check=False)
    required = re.search(
        r'^requires = \["(maturin.*)"\]', (ROOT / "pyproject.toml").read_text("utf-8"), re.M
    )[1]
    [said] = done.stderr.splitlines()
    assert done.returncode == 1
    assert said.startswith("rust_diffusion cannot be built here: ") and sys.executable in said
    assert said.endswith(f'python -m pip install "{required}"')


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
