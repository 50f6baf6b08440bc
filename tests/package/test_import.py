"""`import rust_diffusion` beside the right torch, another torch and none."""

from __future__ import annotations

import subprocess
import sys
from itertools import cycle

import pytest
import torch

from rust_diffusion import _native
from rust_diffusion.support import versions

LINKED = [f"{major}.{minor}" for major, minor in versions.linked()]
AT_HAND = "{}.{}".format(*versions.minor(torch.__version__))
MATCHING = f'pip install "torch=={LINKED[-1]}.*"'
MINORS = [f"{versions.OLDEST[0]}.{minor}" for minor in range(versions.OLDEST[1], versions.NEWEST[1] + 1)]
BUILDS = (".0", ".0a0", ".1+cu130", ".0+cpu")
OTHERS = [minor + build for minor, build in zip(MINORS, cycle(BUILDS), strict=False) if minor not in LINKED]
OUT_OF_RANGE = ["1.13.1", f"2.{versions.OLDEST[1] - 1}.1", f"2.{versions.NEWEST[1] + 1}.0.dev20261120+cpu"]


def python(code: str, *, path: str = "") -> subprocess.CompletedProcess[str]:
    program = f"import sys; sys.path[:0] = [p for p in [{path!r}] if p]\n{code}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)


TRY_TO_IMPORT = """
try:
    import rust_diffusion
except ImportError as error:
    print(type(error).__name__, error, sep="|")
print([name for name in sys.modules if "_native" in name])
"""


@pytest.mark.parametrize("first", ["", "import torch", "import numpy"])
def test_import_works_whatever_was_imported_before(first):
    done = python(f"{first}\nimport rust_diffusion, torch; print(rust_diffusion.__name__)")
    assert done.stdout == "rust_diffusion\n", done.stderr


def message_beside(version, tmp_path) -> str:
    (tmp_path / "torch.py").write_text(f"__version__ = {version!r}\n")
    said, loaded = python(TRY_TO_IMPORT, path=str(tmp_path)).stdout.splitlines()
    kind, message = said.split("|")
    assert kind == "ImportError" and loaded == "[]"
    assert f"linked with torch {', '.join(LINKED)}, but torch {version} is installed" in message
    return message


@pytest.mark.parametrize("version", OTHERS)
def test_beside_another_torch_the_message_says_how_to_compile_for_it(tmp_path, version):
    message = message_beside(version, tmp_path)
    assert "for torch {}.{},".format(*versions.minor(version)) in message
    assert f"{sys.executable} -m pip install --no-deps --force-reinstall ." in message, "of this very Python"


@pytest.mark.parametrize("version", OUT_OF_RANGE)
def test_beside_a_torch_out_of_range_the_message_says_which_to_install(tmp_path, version):
    message = message_beside(version, tmp_path)
    assert MATCHING in message and "--force-reinstall" not in message


def test_no_torch_at_all_is_said_with_the_remedy():
    done = python("sys.modules['torch'] = None\n" + TRY_TO_IMPORT)
    said, loaded = done.stdout.splitlines()
    assert said.startswith("ImportError|") and "no torch is installed" in said
    assert MATCHING in said
    assert loaded == "[]"


def test_an_error_inside_torch_keeps_its_own_message(tmp_path):
    (tmp_path / "torch.py").write_text("import a_module_that_torch_needs\n")
    done = python(TRY_TO_IMPORT, path=str(tmp_path))
    assert done.stdout.startswith("ModuleNotFoundError|No module named 'a_module_that_torch_needs'")


@pytest.mark.parametrize("build", [".0", ".1", ".0+cpu", ".9+cu128"])
def test_every_build_of_the_right_torch_is_taken(monkeypatch, build):
    monkeypatch.setattr(torch, "__version__", AT_HAND + build)
    versions.check_torch()


def test_python_is_shown_the_library_of_this_torch_and_no_other(rd):
    assert versions.minor(_native.LINKED_TORCH) == versions.minor(torch.__version__)
    shown = [place for place in rd.__path__ if "engines" in place]
    assert [place.rsplit("-", 1)[1] for place in shown] == [AT_HAND]


def test_a_library_without_a_torch_to_its_name_is_not_seen(monkeypatch, tmp_path):
    for folder in ("torch-2.12", "torch-2.13"):
        (tmp_path / folder).mkdir()
    (tmp_path / "torch-2.13" / f"_native{versions.EXTENSION_SUFFIXES[0]}").touch()
    (tmp_path / "torch-2.12" / "_native.cpython-27-other.so").touch()
    (tmp_path / f"_native{versions.EXTENSION_SUFFIXES[0]}").touch()
    monkeypatch.setattr(versions, "ENGINES", tmp_path)
    assert versions.linked() == [(2, 13)]
