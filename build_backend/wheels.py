"""What is done to a wheel that maturin made: each library lies in a folder named after its torch."""

from __future__ import annotations

import base64
import hashlib
import re
import sysconfig
import zipfile
from pathlib import Path

__all__ = ["ENGINES", "asking_for", "engines_in", "merge", "put_in_order", "read", "shelve", "write"]

#: Where the package looks for its libraries: support/versions.py.
ENGINES = "rust_diffusion/engines"

_EXTENSION = re.compile(r"rust_diffusion/(_native\.[^/]*(?:so|pyd))")
_ASKS_FOR_TORCH = re.compile(r"^Requires-Dist: torch[ =<>!~(][^\n]*$", re.MULTILINE)


def put_in_order(wheel: Path, torch: tuple[int, int], requirement: str) -> None:
    """Move the library to its folder, and ask for the torch that it is linked with."""
    files = {}
    for name, content in read(wheel).items():
        if found := _EXTENSION.fullmatch(name):
            name = f"{engine_folder(torch)}/{found[1]}"
        files[name] = asking_for(requirement, content) if name.endswith(".dist-info/METADATA") else content
    write(wheel, files)


def merge(wheels: list[Path], out: Path, requirement: str) -> Path:
    """Put the libraries of wheels of one Python, each for another torch, into one that asks for a range of torches."""
    if len({wheel.name for wheel in wheels}) != 1:
        raise ValueError(
            f"these wheels are not for one Python and system: {', '.join(str(w) for w in wheels)}"
        )
    files: dict[str, bytes] = {}
    for wheel in wheels:
        for name, content in read(wheel).items():
            if name.endswith(".dist-info/METADATA"):
                content = asking_for(requirement, content)
            if files.setdefault(name, content) != content and ".dist-info/sboms/" not in name:
                raise ValueError(f"{name} differs between the wheels: they are not of the same sources")
    out.mkdir(parents=True, exist_ok=True)
    write(out / wheels[0].name, files)
    return out / wheels[0].name


def engine_folder(torch: tuple[int, int]) -> str:
    """Name the folder of the library that is linked with this minor of torch."""
    return f"{ENGINES}/torch-{torch[0]}.{torch[1]}"


def engines_in(wheel: Path) -> list[str]:
    """List the minors that a wheel has libraries for."""
    found = (re.match(rf"{ENGINES}/torch-([\d.]+)/_native", name) for name in read(wheel))
    return [match[1] for match in found if match]


def shelve(package: Path, torch: tuple[int, int]) -> None:
    """Move the library that maturin left in the source tree to its folder."""
    built = f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    for library in [*package.glob("_native.*.so"), *package.glob("_native.*.pyd")]:
        if library.name == built:
            folder = package.parent / engine_folder(torch)
            folder.mkdir(parents=True, exist_ok=True)
            library.replace(folder / library.name)
        else:
            library.unlink()  # another Python's, from another time: nobody knows what it was linked with


def asking_for(requirement: str, metadata: bytes) -> bytes:
    """Change what a METADATA file says about torch."""
    changed, count = _ASKS_FOR_TORCH.subn(f"Requires-Dist: {requirement}", metadata.decode())
    if count != 1:
        raise ValueError(f"the metadata asks for torch {count} times, not once")
    return changed.encode()


def read(wheel: Path) -> dict[str, bytes]:
    """Read what a wheel holds, by name, without the list of its own content."""
    with zipfile.ZipFile(wheel) as opened:
        return {n: opened.read(n) for n in opened.namelist() if not n.endswith(("/", ".dist-info/RECORD"))}


def write(wheel: Path, files: dict[str, bytes]) -> None:
    """Write a wheel with these files and a list of them, which says the length and the hash of each."""
    [record] = {name.split("/")[0] for name in files if name.endswith(".dist-info/METADATA")}
    record += "/RECORD"
    lines = [f"{name},sha256={_hash(content)},{len(content)}" for name, content in files.items()]
    listed = "\n".join([*lines, f"{record},,", ""]).encode()
    half_written = wheel.with_suffix(".part")
    with zipfile.ZipFile(half_written, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in {**files, record: listed}.items():
            entry = zipfile.ZipInfo(name)  # of 1980: the same files make the same wheel
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o100755 if name.endswith(".so") else 0o100644) << 16
            opened.writestr(entry, content)
    half_written.replace(wheel)


def _hash(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
