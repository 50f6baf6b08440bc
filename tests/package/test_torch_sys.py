"""The source of torch-sys, fitted to torches that it was not written for: shown on a file made up here."""

from __future__ import annotations

import importlib
import shutil
import subprocess

import pytest

from tools import ROOT

#: What a torch of each minor lacks, of the functions that torch-sys calls.
LACKS = {
    10: {"atg__use_miopen_ctc_loss", "atg__use_miopen_ctc_loss_tensor", "atg_miopen_ctc_loss",
         "atg_miopen_ctc_loss_out", "atg_miopen_ctc_loss_tensor"},
    11: set(),
    12: set(),
    13: {"atg_align_as", "atg_align_tensors"},
    14: {"atg_align_as", "atg_align_tensors", "atg_cholesky", "atg_cholesky_out", "atg_qr", "atg_qr_q"},
}  # fmt: skip

HEADER = """\
#include <cstdio>
#include <stdexcept>
#define PROTECT(x) try {{ x }} catch (const std::exception &error) {{ std::printf("%s\\n", error.what()); }}
#define TORCH_VERSION_MAJOR 2
#define TORCH_VERSION_MINOR {minor}
#define TORCH_VERSION "2.{minor}.0"
inline int known() {{ return 1; }}
"""


@pytest.fixture
def torch_sys(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT / "build_backend")
    return importlib.import_module("torch_sys")


def function(name: str, called: str) -> str:
    """As torch-sys writes them: with a value or without."""
    if "use_miopen" in name:
        return f"int {name}(int x) {{\n  PROTECT(\n    return {called}();\n  )\n  return 0;\n}}\n"
    if name == "atg_align_tensors":
        body = f"    for (; x < 1; ++x)\n      {called}();\n    return nullptr;\n"
        return f"int *{name}(int x) {{\n  PROTECT(\n{body}  )\n  return nullptr;\n}}\n"
    return f"void {name}(int x) {{\n  PROTECT(\n    {called}();\n  )\n}}\n"


@pytest.fixture
def names(torch_sys) -> list[str]:
    return [name for names in torch_sys.ELEVEN.values() for name in names]


@pytest.fixture
def generated(names) -> str:
    """The eleven, and functions beside them that every torch has and whose names begin likewise."""
    common = [function("atg_before", "known"), function("atg_cholesky_inverse", "known")]
    eleven = [function(name, f"torch_{name}") for name in names]
    return "\n".join([*common, *eleven, function("atg_qr_after", "known")])


@pytest.mark.parametrize("minor", LACKS)
def test_what_a_torch_lacks_throws_and_what_it_has_is_called(torch_sys, names, generated, tmp_path, minor):
    compiler = shutil.which("g++") or shutil.which("c++") or pytest.skip("no C++ compiler")
    (tmp_path / "torch").mkdir()
    has = [
        f'inline int torch_{name}() {{ std::puts("{name}"); return 1; }}\n'
        for name in names
        if name not in LACKS[minor]
    ]
    (tmp_path / "torch/version.h").write_text(HEADER.format(minor=minor) + "".join(has))
    calls = "".join(
        f"  {name}(0);\n" for name in ["atg_before", *names, "atg_cholesky_inverse", "atg_qr_after"]
    )
    program = tmp_path / "program.cpp"
    program.write_text(f"{torch_sys.throwing_where_missing(generated)}\nint main() {{\n{calls}}}\n")
    subprocess.run(
        [compiler, "-O0", f"-I{tmp_path}", str(program), "-o", str(tmp_path / "program")], check=True
    )
    said = subprocess.run(
        [tmp_path / "program"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert said == [f"torch 2.{minor}.0 has no function for {n}" if n in LACKS[minor] else n for n in names]


def test_a_source_without_one_of_the_functions_is_refused(torch_sys, generated):
    with pytest.raises(ValueError, match=r"torch_sys\.py knows: the function atg_qr_q is there 0 times"):
        torch_sys.throwing_where_missing(generated.replace("void atg_qr_q(", "void atg_qr_other("))


def test_a_source_with_one_of_them_twice_is_refused(torch_sys, generated):
    with pytest.raises(ValueError, match="the function atg_align_as is there 2 times"):
        torch_sys.throwing_where_missing(generated + function("atg_align_as", "known"))


@pytest.mark.parametrize(
    ("torch", "standard"), [((2, 10), "17"), ((2, 13), "17"), ((2, 14), "20"), ((2, 15), "20")]
)
def test_the_copy_is_compiled_as_torchs_headers_ask_for(
    torch_sys, monkeypatch, tmp_path, generated, torch, standard
):
    questions = 'const PYTHON_PRINT_PYTORCH_DETAILS: &str = r"\nimport torch\n";\n'
    source = {
        torch_sys.GENERATED: generated,
        "build.rs": f'{questions}"-std=c++17" "/std:c++17"\n',
        "Cargo.toml": "[package]\n",
        "Cargo.lock": "left out",
    }
    for name, text in source.items():
        (tmp_path / "fetched" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fetched" / name).write_text(text)
    monkeypatch.setattr(torch_sys, "fetched", lambda: tmp_path / "fetched")
    copy = torch_sys.adapted(torch, tmp_path)
    script = (copy / "build.rs").read_text()
    assert f'"-std=c++{standard}" "/std:c++{standard}"' in script and "import torch\n" not in script
    assert (copy / "Cargo.toml").read_text() == "[package]\n" and not (copy / "Cargo.lock").exists()
    before = (copy / torch_sys.GENERATED).stat().st_mtime_ns
    assert torch_sys.adapted(torch, tmp_path) == copy
    assert (copy / torch_sys.GENERATED).stat().st_mtime_ns == before  # or cargo would compile it again


@pytest.mark.parametrize("version", ["2.11.0", "2.11.0+cpu", "2.11.0+cu128"])
def test_torch_sys_is_taken_as_it_is_beside_the_torch_it_is_written_for(torch_sys, tmp_path, version):
    assert version.split("+")[0] == torch_sys.WRITTEN_FOR
    assert torch_sys.cargo_arguments(torch_sys.Torch(version, tmp_path, importable=True), tmp_path) == []


@pytest.mark.parametrize(
    ("version", "importable"),
    [("2.11.1", True), ("2.11.0a0+git1234", True), ("2.13.0", True), ("2.11.0+cpu", False)],
)
def test_torch_sys_is_adapted_to_any_other(torch_sys, monkeypatch, tmp_path, version, importable):
    """Its build script imports torch, and refuses a patch release of the same minor."""
    monkeypatch.setattr(torch_sys, "adapted", lambda minor, target: target / "{}.{}".format(*minor))
    told = torch_sys.cargo_arguments(torch_sys.Torch(version, tmp_path, importable), tmp_path)
    assert told == ["--config", f'paths = ["{tmp_path}/{version[:4]}"]']
