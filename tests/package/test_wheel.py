"""What is in the wheel: the package, one extension, its metadata, and nothing of torch's."""

from __future__ import annotations

import re
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import torch

from tools import ROOT

MINOR = ".".join(torch.__version__.split(".")[:2])
EXTENSION = f"rust_diffusion/engines/torch-{MINOR}/_native" + sysconfig.get_config_var("EXT_SUFFIX")
TAG = f"cp{sysconfig.get_config_var('py_version_nodot')}"


@pytest.fixture(scope="module")
def wheel():
    """The newest wheel for this Python and this torch; `make test` has just built and installed it."""
    names = f"rust_diffusion-*-{TAG}-{TAG}-*.whl"
    for path in sorted((ROOT / "dist").glob(f"**/{names}"), key=lambda w: w.stat().st_mtime, reverse=True):
        with zipfile.ZipFile(path) as opened:
            engines = {name for name in opened.namelist() if "/engines/" in name}
            if engines == {EXTENSION}:
                yield opened
                return
    pytest.skip(f"no {TAG} wheel for torch {MINOR} in dist/; `make wheel` builds it")


@pytest.fixture(scope="module")
def names(wheel) -> set[str]:
    return {name for name in wheel.namelist() if not name.endswith("/")}


@pytest.fixture(scope="module")
def metadata(wheel, names):
    [path] = [name for name in names if name.endswith(".dist-info/METADATA")]
    return Parser().parsestr(wheel.read(path).decode())


def test_it_holds_the_package_one_extension_and_metadata_only(names):
    source = ROOT / "python"
    package = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in {".so", ".pyd", ".pyc"}
    }
    rest = {name for name in names - package if ".dist-info/" not in name}
    assert package <= names
    assert rest == {EXTENSION}


def test_types_are_shipped(names):
    assert {"rust_diffusion/py.typed", "rust_diffusion/_native.pyi"} <= names


def test_the_licence_and_the_command_are_shipped(wheel, names):
    licences = {name.split(".dist-info/licenses/")[1] for name in names if ".dist-info/licenses/" in name}
    assert licences == {"LICENSE", "NOTICE"}
    [entry_points] = [name for name in names if name.endswith("/entry_points.txt")]
    assert "rust-diffusion=rust_diffusion.cli:main" in wheel.read(entry_points).decode().replace(" ", "")


def test_it_asks_for_the_minor_of_torch_that_it_is_linked_with(metadata):
    needs = [r for r in metadata.get_all("Requires-Dist") if "extra ==" not in r]
    assert f"torch=={MINOR}.*" in [r.replace(" ", "") for r in needs]
    assert {re.match(r"[A-Za-z0-9_-]+", r)[0] for r in needs} == {
        "torch", "numpy", "tqdm", "matplotlib", "pillow", "safetensors", "click", "filelock", "platformdirs",
        "typing-extensions",
    }  # fmt: skip


def test_it_is_tagged_for_one_python_and_says_so(wheel, metadata):
    assert "abi3" not in wheel.filename and "none" not in Path(wheel.filename).name
    assert {part.strip() for part in metadata["Requires-Python"].split(",")} == {">=3.10", "<3.14"}


def test_nothing_of_torch_is_copied_in(wheel):
    # torch alone would be hundreds of megabytes; our extension is a few.
    assert sum(info.file_size for info in wheel.infolist()) < 60e6


def test_the_extension_runs_with_a_torch_without_cuda(wheel):
    # torch loads its CUDA libraries itself, where it has them; an extension that names them needs them.
    content = wheel.read(EXTENSION)
    assert b"libtorch_cuda" not in content and b"libcudart" not in content


def test_the_extension_carries_no_path_of_the_build_machine(wheel):
    # An rpath into a build environment would hide a forgotten `import torch`, here and only here.
    content = wheel.read(EXTENSION)
    assert b"site-packages/torch/lib" not in content
