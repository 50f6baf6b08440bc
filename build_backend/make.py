"""What the Makefile asks for; unlike pip, these show the compiler's progress.

make.py wheel [FOLDER]  a wheel for the torch at hand
make.py develop         the extension in the source tree, which is used in place
make.py arguments       what cargo is to be told for the torch at hand
make.py fat-wheel       one wheel with a library for every torch in range
make.py new-torch 2.16  whether the sources compile against a torch that pip can download
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import rust_diffusion_build as backend
import torch_sys
import torches
import wheels
from stopping import stop

TARGET = Path(os.environ.get("CARGO_TARGET_DIR", "target"))


def wheel(folder: str = "dist") -> Path:
    """Build for the torch at hand, tagged with the oldest glibc that it runs with.

    What a front end asks for, maturin tags as for this machine only.
    """
    os.makedirs(folder, exist_ok=True)
    return Path(folder, backend.build_wheel(folder, {"maturin.build-args": "--compatibility pypi"}))


def develop() -> None:
    """Compile into ``python/``, and install a link to it."""
    torch = backend.torch_at_hand()
    with backend.building_for(torch):
        subprocess.run(["maturin", "develop", "--release", *backend.cargo_arguments(torch)], check=True)
    wheels.shelve(backend.PACKAGE, torch.minor)


def arguments() -> None:
    """Print them for a shell."""
    print(shlex.join(backend.cargo_arguments(backend.torch_at_hand())))


def fat_wheel() -> None:
    """Build for each torch in range, and merge; what is downloaded is removed again, for it takes 2 GB each."""
    made = []
    for minor in range(torches.OLDEST[1], torches.newest()[1] + 1):
        torch, downloaded = _torch_of((torches.OLDEST[0], minor))
        print(f"\n==> A library for torch {torch.version}", flush=True)
        with backend.environment(RUST_DIFFUSION_TORCH=str(torch.folder)):
            made.append(wheel(f"dist/torch-{torch.minor[0]}.{torch.minor[1]}"))
        if downloaded:
            shutil.rmtree(torch.folder.parent)
    fat = wheels.merge(made, Path("dist/fat"), torches.RANGE)
    print(f"{fat}: {fat.stat().st_size / 1e6:.1f} MB, for torch {', '.join(wheels.engines_in(fat))}")


def new_torch(version: str) -> None:
    """Have the compilers read everything against a torch; nothing is linked or run, and its CUDA is not needed."""
    major, minor = version.split(".")[:2]
    torch, _ = _torch_of((int(major), int(minor)))
    fitting = torch_sys.cargo_arguments(torch, TARGET)
    check = ["cargo", "check", *fitting, "--workspace", "--locked", "--keep-going"]
    with backend.building_for(torch), backend.environment(CARGO_PROFILE_DEV_OPT_LEVEL="0"):
        done = subprocess.run(check, check=False)
    if done.returncode != 0:
        stop(
            f"not for torch {torch.version} as they are. CONTRIBUTING.md says what to do, under 'A new torch'"
        )
    # Out of range the suite cannot be built.
    first = (
        "" if torches.in_range(torch) else "raise NEWEST, as CONTRIBUTING.md says under 'A new torch'; then "
    )
    suite = f"make matrix TORCH={major}.{minor}"
    print(f"The sources compile against torch {torch.version}. Next: {first}{suite}")


def _torch_of(minor: tuple[int, int]) -> tuple[torches.Torch, bool]:
    """Find the torch of a minor at hand; or download it, without what it needs to run, and say so."""
    for torch in torches.at_hand():
        if torch.minor == minor:
            return torch, False
    folder = TARGET / "torches" / f"{minor[0]}.{minor[1]}"
    if not (folder / "torch/version.py").exists():
        pip = [
            sys.executable,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "install",
            "--no-deps",
            "--no-cache-dir",
        ]
        subprocess.run([*pip, "--target", str(folder), f"torch=={minor[0]}.{minor[1]}.*"], check=True)
    return torches.in_folder(folder / "torch"), True


if __name__ == "__main__":
    commands: dict[str, Callable[..., object]] = {
        "wheel": wheel,
        "develop": develop,
        "arguments": arguments,
        "fat-wheel": fat_wheel,
        "new-torch": new_torch,
    }
    commands[sys.argv[1]](*sys.argv[2:])
