"""Versions that belong together are written in several files; here they are held to each other."""

from __future__ import annotations

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
def crates() -> dict[str, str]:
    """The workspace's pins: crate name -> requirement."""
    return toml("Cargo.toml")["workspace"]["dependencies"]


def pinned(requirements: list[str], package: str) -> str:
    [version] = [r.removeprefix(f"{package}==") for r in requirements if r.startswith(f"{package}==")]
    return version


def test_torch_is_the_same_for_the_build_at_run_time_and_at_import(pyproject):
    built = pinned(pyproject["build-system"]["requires"], "torch")
    wanted = pinned(pyproject["project"]["dependencies"], "torch")
    assert built == wanted == versions.TORCH == torch.__version__.split("+")[0]


def test_the_extension_is_linked_with_the_torch_that_is_named():
    # torch-sys' own build script refuses any torch but the one that the crates are made for.
    assert _native.LINKED_TORCH.split("+")[0] == versions.TORCH
    assert pinned(metadata.requires("rust-diffusion"), "torch") == versions.TORCH


@pytest.mark.parametrize(
    "pattern",
    [
        r"torch==(\d+\.\d+\.\d+)",
        r"(?<!diffusion-py)[Tt]orch (\d+\.\d+\.\d+)",  # denoising-diffusion-pytorch has versions of its own
        r"TORCH(?:_VERSION)?\s*[:=]\s*[\"']?(\d+\.\d+\.\d+)",
    ],
)
def test_no_text_names_another_torch(pattern):
    texts = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "Makefile", ROOT / "Cargo.toml"]
    texts += [*ROOT.glob("docs/**/*.md"), *ROOT.glob(".github/**/*.yml"), *ROOT.glob("python/**/*.py")]
    other = {
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in texts
        if "_build" not in path.parts
        for match in re.finditer(pattern, path.read_text(encoding="utf-8"))
        if match[1] != versions.TORCH
    }
    assert not other


def test_torchvision_is_one_version(pyproject):
    extras = pyproject["project"]["optional-dependencies"].values()
    found = {r for extra in extras for r in extra if r.startswith("torchvision")}
    assert len(found) == 1 and found.pop().startswith("torchvision==")


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
