"""`import rust_diffusion` beside the right torch, another torch and none."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from rust_diffusion.support import versions


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


@pytest.mark.parametrize("version", ["2.10.0", "2.12.1+cu130", "2.11.1", "2.11.0a0"])
def test_another_torch_is_named_with_the_remedy_before_the_extension_is_loaded(tmp_path, version):
    (tmp_path / "torch.py").write_text(f"__version__ = {version!r}\n")
    done = python(TRY_TO_IMPORT, path=str(tmp_path))
    said, loaded = done.stdout.splitlines()
    kind, message = said.split("|")
    assert kind == "ImportError"
    assert f"torch {versions.TORCH}," in message and f"torch {version} " in message
    assert f'pip install "torch=={versions.TORCH}"' in message
    assert loaded == "[]"


def test_no_torch_at_all_is_said_with_the_remedy():
    done = python("sys.modules['torch'] = None\n" + TRY_TO_IMPORT)
    said, loaded = done.stdout.splitlines()
    assert said.startswith("ImportError|") and "no torch is installed" in said
    assert f'pip install "torch=={versions.TORCH}"' in said
    assert loaded == "[]"


def test_an_error_inside_torch_keeps_its_own_message(tmp_path):
    (tmp_path / "torch.py").write_text("import a_module_that_torch_needs\n")
    done = python(TRY_TO_IMPORT, path=str(tmp_path))
    assert done.stdout.startswith("ModuleNotFoundError|No module named 'a_module_that_torch_needs'")


@pytest.mark.parametrize("local", ["", "+cpu", "+cu128"])
def test_every_build_of_the_right_torch_is_taken(monkeypatch, local):
    monkeypatch.setattr(torch, "__version__", versions.TORCH + local)
    versions.check_torch()
