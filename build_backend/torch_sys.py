"""Fits the source of torch-sys to a torch that it was not written for.

torch-sys names every function of one torch. Of the eleven below some torches lack a few, so its C++ does not
compile against them, although nothing here calls them. cargo's own copy of the crate is copied into the target
folder, each of the eleven is put under a condition on the version in torch's headers (where a function is
missing, the call throws), and cargo is told to take that copy. No symbol is missing, no Rust changes, and this
repository holds none of that source.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torches import Torch

__all__ = [
    "ELEVEN",
    "GENERATED",
    "WRITTEN_FOR",
    "adapted",
    "cargo_arguments",
    "fetched",
    "throwing_where_missing",
]

#: The torch that torch-sys 0.24 is written for: its source is taken as it is. Its build script compares the whole
#: number, so that 2.11.1 is another torch to it.
WRITTEN_FOR = "2.11.0"

GENERATED = "libtch/torch_api_generated.cpp"

#: The condition under which torch has a function, and the functions of torch-sys that call it.
ELEVEN = {
    "TORCH_VERSION_MINOR >= 11": (
        "atg__use_miopen_ctc_loss", "atg__use_miopen_ctc_loss_tensor", "atg_miopen_ctc_loss",
        "atg_miopen_ctc_loss_out", "atg_miopen_ctc_loss_tensor",
    ),
    "TORCH_VERSION_MINOR < 13": ("atg_align_as", "atg_align_tensors"),
    "TORCH_VERSION_MINOR < 14": ("atg_cholesky", "atg_cholesky_out", "atg_qr", "atg_qr_q"),
}  # fmt: skip

_VERSION_KNOWN = """\
#include <torch/version.h>
#if TORCH_VERSION_MAJOR != 2 || !defined(TORCH_VERSION_MINOR)
#error "torch/version.h does not say which torch 2 this is"
#endif
"""

# Asks for what torch's own helper would say, without importing torch: its folder is known, and a torch whose
# CUDA libraries are not installed cannot be imported but can be compiled against.
_DETAILS_WITHOUT_IMPORT = """\
const PYTHON_PRINT_PYTORCH_DETAILS: &str = r"
import os
torch = os.environ['LIBTORCH_USE_PYTORCH']
print('LIBTORCH_CXX11: True')
print('LIBTORCH_INCLUDE:', os.path.join(torch, 'include'))
print('LIBTORCH_INCLUDE:', os.path.join(torch, 'include', 'torch', 'csrc', 'api', 'include'))
print('LIBTORCH_LIB:', os.path.join(torch, 'lib'))
";
"""


def cargo_arguments(torch: Torch, target: Path) -> list[str]:
    """What cargo is to be told for this torch: nothing where the source fits, and its script can import the torch.

    A path override, unlike a patch, leaves Cargo.lock alone, so ``--locked`` goes with it.
    """
    if torch.importable and torch.version.split("+")[0] == WRITTEN_FOR:
        return []
    return ["--config", f"paths = [{json.dumps(str(adapted(torch.minor, target)))}]"]


def adapted(torch: tuple[int, int], target: Path) -> Path:
    """Copy torch-sys into the target folder, fitted to this minor of torch, and name the copy's folder."""
    copy = target.resolve() / "torch-sys" / f"{torch[0]}.{torch[1]}"
    source = fetched()
    for file in source.rglob("*"):
        # The lock file and the note of its origin would make cargo see a workspace of its own.
        if file.is_file() and file.name not in (".cargo-ok", ".cargo_vcs_info.json", "Cargo.lock"):
            name = file.relative_to(source).as_posix()
            _put(copy / name, _changed(name, file, torch))
    return copy


def fetched() -> Path:
    """The folder that cargo has, or fetches, torch-sys in."""
    told = subprocess.run(
        [os.environ.get("CARGO", "cargo"), "metadata", "--locked", "--format-version", "1"],
        stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    packages = json.loads(told.stdout)["packages"]
    return next(Path(p["manifest_path"]).parent for p in packages if p["name"] == "torch-sys")


def _changed(name: str, file: Path, torch: tuple[int, int]) -> bytes:
    content = file.read_bytes()
    if name == GENERATED:
        return throwing_where_missing(content.decode()).encode()
    if name == "build.rs":
        return _build_script(content.decode(), torch).encode()
    return content


def throwing_where_missing(source: str) -> str:
    """Put each of the eleven functions under its condition, with a body that throws in the other branch."""
    for condition, names in ELEVEN.items():
        for name in names:
            function = rf"^[\w *]+\b{name}\([^\n]*\) \{{\n.*?^\}}\n"
            either = partial(_either, name=name, condition=condition)
            source = _replaced_once(function, either, source, f"the function {name}")
    return _VERSION_KNOWN + source


def _either(found: re.Match[str], name: str, condition: str) -> str:
    signature, _, body = found[0].partition("\n")
    returned = re.search(r"^  return [^\n]*;\n(?=\}\n\Z)", body, re.MULTILINE)
    return (
        f"#if {condition}\n{found[0]}#else\n{signature}\n"
        f'  PROTECT(throw std::runtime_error("torch " TORCH_VERSION " has no function for {name}");)\n'
        f"{returned[0] if returned else ''}}}\n#endif\n"
    )


def _build_script(source: str, torch: tuple[int, int]) -> str:
    """Take torch's folder as it is given, and the C++ that torch's headers ask for: C++20 from 2.14 on."""
    standard = "20" if torch >= (2, 14) else "17"
    for flag in ("-std=c++", "/std:c++"):
        source = _replaced_once(
            rf'"{re.escape(flag)}17"', partial(_as, f'"{flag}{standard}"'), source, f"{flag}17"
        )
    details = r'^const PYTHON_PRINT_PYTORCH_DETAILS: &str = r"\n.*?^";\n'
    return _replaced_once(details, partial(_as, _DETAILS_WITHOUT_IMPORT), source, "its questions to torch")


def _as(text: str, found: re.Match[str]) -> str:
    return text


def _replaced_once(pattern: str, new: Callable[[re.Match[str]], str], text: str, what: str) -> str:
    changed, count = re.subn(pattern, new, text, flags=re.MULTILINE | re.DOTALL)
    if count != 1:
        raise ValueError(
            f"torch-sys is not the crate that build_backend/torch_sys.py knows: {what} is there {count} times, not once"
        )
    return changed


def _put(path: Path, content: bytes) -> None:
    """Write what differs only: cargo compiles anew what has a new date."""
    if not path.exists() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
