"""What the build backend does to wheels: each library in the folder of its torch, and several in one wheel."""

from __future__ import annotations

import csv
import hashlib
import importlib
import sysconfig
import zipfile
from base64 import urlsafe_b64encode

import pytest

from tools import ROOT

METADATA = """\
Metadata-Version: 2.4
Name: rust-diffusion
Requires-Dist: torch>=2.10,<2.16
Requires-Dist: torchmetrics>=1.6
"""
INFO = "rust_diffusion-0.1.0.dist-info"


@pytest.fixture
def wheels(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "build_backend")
    return importlib.import_module("wheels")


@pytest.fixture
def wheel_of(wheels, tmp_path):
    """A wheel as maturin makes it, put in order for a torch."""

    def build(torch, *, sources="x = 1\n", name="rust_diffusion-0.1.0-cp311-cp311-linux_x86_64.whl"):
        path = tmp_path / f"2.{torch[1]}" / name
        path.parent.mkdir(exist_ok=True)
        content = {
            "rust_diffusion/__init__.py": sources.encode(),
            "rust_diffusion/_native.cpython-311-x86_64-linux-gnu.so": f"linked with {torch}".encode(),
            "rust_diffusion/_native.pyi": b"",
            f"{INFO}/METADATA": METADATA.encode(),
        }
        wheels.write(path, content)
        wheels.put_in_order(path, torch, f"torch=={torch[0]}.{torch[1]}.*")
        return path

    return build


def check_record(path):
    """Every file is listed with its length and hash, as installers check."""
    with zipfile.ZipFile(path) as opened:
        rows = list(csv.reader(opened.read(f"{INFO}/RECORD").decode().splitlines()))
        assert sorted(row[0] for row in rows) == sorted(opened.namelist())
        for name, digest, length in rows:
            if name != f"{INFO}/RECORD":
                content = opened.read(name)
                expected = urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
                assert (digest, length) == (f"sha256={expected}", str(len(content)))


def test_a_wheel_of_one_torch_holds_its_library_in_the_folder_of_that_torch_and_asks_for_it(wheels, wheel_of):
    path = wheel_of((2, 13))
    files = wheels.read(path)
    assert "rust_diffusion/engines/torch-2.13/_native.cpython-311-x86_64-linux-gnu.so" in files
    assert not [name for name in files if name.startswith("rust_diffusion/_native.cpython")]
    assert "rust_diffusion/_native.pyi" in files
    assert b"Requires-Dist: torch==2.13.*\nRequires-Dist: torchmetrics>=1.6\n" in files[f"{INFO}/METADATA"]
    check_record(path)


def test_the_fat_wheel_holds_every_library_and_asks_for_the_range(wheels, wheel_of, tmp_path):
    path = wheels.merge(
        [wheel_of((2, minor)) for minor in (10, 11, 15)], tmp_path / "fat", "torch>=2.10,<2.16"
    )
    assert sorted(wheels.engines_in(path)) == ["2.10", "2.11", "2.15"]
    assert b"Requires-Dist: torch>=2.10,<2.16\n" in wheels.read(path)[f"{INFO}/METADATA"]
    check_record(path)


def test_wheels_of_different_sources_are_not_merged(wheels, wheel_of, tmp_path):
    pair = [wheel_of((2, 10)), wheel_of((2, 11), sources="x = 2\n")]
    with pytest.raises(ValueError, match=r"__init__\.py differs between the wheels"):
        wheels.merge(pair, tmp_path / "fat", "torch>=2.10,<2.16")


def test_wheels_of_different_pythons_are_not_merged(wheels, wheel_of, tmp_path):
    pair = [wheel_of((2, 10)), wheel_of((2, 11), name="rust_diffusion-0.1.0-cp312-cp312-linux_x86_64.whl")]
    with pytest.raises(ValueError, match="not for one Python"):
        wheels.merge(pair, tmp_path / "fat", "torch>=2.10,<2.16")


def test_metadata_that_does_not_ask_for_torch_is_refused(wheels):
    with pytest.raises(ValueError, match="asks for torch 0 times"):
        wheels.asking_for("torch==2.11.*", b"Requires-Dist: torchmetrics\n")


def test_the_same_content_makes_the_same_wheel(wheels, wheel_of):
    path = wheel_of((2, 12))
    before = path.read_bytes()
    wheels.write(path, wheels.read(path))
    assert path.read_bytes() == before


def test_the_library_that_was_built_in_the_source_tree_goes_to_its_folder(wheels, tmp_path):
    """Another Python's that lies beside it may be linked with any torch."""
    package = tmp_path / "rust_diffusion"
    filed = package / "engines/torch-2.13/_native.cpython-27-other.so"
    filed.parent.mkdir(parents=True)
    filed.touch()
    library = f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    (package / library).write_text("new")
    for other in ("_native.cpython-27-other.so", "_native.cp27-other.pyd", "_native.pyi"):
        (package / other).touch()
    wheels.shelve(package, (2, 14))
    assert sorted(path.name for path in package.iterdir()) == ["_native.pyi", "engines"]
    assert [path.name for path in (package / "engines/torch-2.14").iterdir()] == [library]
    assert (package / "engines/torch-2.14" / library).read_text() == "new" and filed.exists()
