"""Versions that belong together are written in several files; here they are held to each other."""

from __future__ import annotations

import importlib
import re
import sys
from importlib import metadata

import pytest
import torch

import rust_diffusion
from rust_diffusion import _native
from rust_diffusion.support import versions
from tools import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYTHONS = ["3.10", "3.11", "3.12", "3.13"]


def toml(name: str) -> dict:
    return tomllib.loads((ROOT / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pyproject() -> dict:
    return toml("pyproject.toml")


@pytest.fixture(scope="module")
def torches():
    """The build backend's module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "build_backend")
        yield importlib.import_module("torches")


@pytest.fixture(scope="module")
def crates() -> dict[str, str]:
    """The workspace's pins: crate name -> requirement."""
    return toml("Cargo.toml")["workspace"]["dependencies"]


def wanted(requirements: list[str], package: str) -> str:
    [found] = [re.split("[;#]", r)[0] for r in requirements if re.match(rf"{package}\b(?!-)", r)]
    return found.removeprefix(package).replace(" ", "").strip("()")


def test_the_range_of_torches_is_the_same_for_the_build_at_run_time_and_at_import(pyproject, torches):
    assert "torch" + wanted(pyproject["project"]["dependencies"], "torch") == torches.RANGE
    assert (torches.OLDEST, torches.NEWEST) == (versions.OLDEST, versions.NEWEST)
    assert torches.OLDEST <= versions.minor(torches.DEFAULT) <= torches.NEWEST
    assert not [r for r in pyproject["build-system"]["requires"] if r.startswith("torch")]


def test_the_extension_is_linked_with_the_minor_of_the_torch_at_hand_and_the_package_asks_for_it(pyproject):
    assert versions.minor(_native.LINKED_TORCH) == versions.minor(torch.__version__)
    asked = wanted(metadata.requires("rust-diffusion"), "torch")
    minor, fat = (
        "=={}.{}.*".format(*versions.minor(torch.__version__)),
        wanted(pyproject["project"]["dependencies"], "torch"),
    )
    assert set(asked.split(",")) in ({minor}, set(fat.split(",")))


def test_the_default_torch_is_written_once(torches):
    line = f'DEFAULT = "{torches.DEFAULT}"'
    assert (ROOT / "build_backend/torches.py").read_text(encoding="utf-8").count(line) == 1
    for place in (ROOT / "Makefile", *ROOT.glob(".github/**/*.yml"), ROOT / "pyproject.toml"):
        assert not re.search(r"torch==2|TORCH_VERSION", place.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "CONTRIBUTING.md",
        "docs/howto/colab.md",
        "docs/howto/install.md",
        "docs/howto/troubleshooting.md",
    ],
)
def test_pages_that_name_the_range_name_the_right_one(torches, name):
    said = re.findall(r"torch (2\.\d+) to (2\.\d+)", (ROOT / name).read_text(encoding="utf-8"))
    assert said and {(versions.minor(a), versions.minor(b)) for a, b in said} == {
        (torches.OLDEST, torches.NEWEST)
    }


def test_no_extra_asks_for_torchvision(pyproject):
    """Without an exact pin pip and uv would take the newest, and its torch with it."""
    extras = pyproject["project"]["optional-dependencies"].values()
    assert not [r for extra in extras for r in extra if "torchvision" in r]


def test_the_torch_crates_are_pinned_together(crates):
    assert crates["tch"] == crates["torch-sys"] == crates["pyo3-tch"]
    assert crates["tch"].startswith("=")


def test_pyo3_and_numpy_are_of_the_minor_that_pyo3_tch_fixes(crates):
    minor = crates["tch"].rsplit(".", 1)[0]
    assert minor == crates["pyo3"].rsplit(".", 1)[0] == crates["numpy"].rsplit(".", 1)[0]


@pytest.mark.parametrize("crate", ["tch", "torch-sys", "pyo3-tch", "pyo3", "pyo3-ffi", "numpy"])
def test_the_lock_file_holds_each_once_at_its_pin(crate, crates):
    [version] = [p["version"] for p in toml("Cargo.lock")["package"] if p["name"] == crate]
    assert version == crates.get(crate, crates["pyo3"]).removeprefix("=")


def test_pythons_agree(pyproject):
    project = pyproject["project"]
    prefix = "Programming Language :: Python :: "
    assert [c.removeprefix(prefix) for c in project["classifiers"] if c.startswith(prefix)] == PYTHONS
    assert project["requires-python"] == ">=3.10,<3.14"
    release = (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")
    assert re.findall(r'"(3\.\d+)"', release.split("python: ")[1].split("]")[0]) == PYTHONS
    finder = (ROOT / "build_backend/pythons.sh").read_text(encoding="utf-8")
    assert sorted(set(re.findall(r"python(3\.\d+)\b", finder))) == PYTHONS


def test_the_package_has_one_version(pyproject):
    version = toml("Cargo.toml")["workspace"]["package"]["version"]
    assert pyproject["project"]["dynamic"] == ["version"]
    assert metadata.version("rust-diffusion") == rust_diffusion.__version__ == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_oldest_rust_is_named_where_people_look():
    oldest = toml("Cargo.toml")["workspace"]["package"]["rust-version"]
    assert f"Rust {oldest}" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
