"""Kill a run with SIGKILL again and again: kill_and_resume.py [KILLS] [EPOCHS].

Each time it is started anew on the same folder; when it comes to its end, everything it wrote is compared
bit for bit with a run that was left alone, and the next one begins. Exit status 1 at any difference.
"""

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from tools import PROGRAMS, child_environment

KILLS = int(sys.argv[1]) if len(sys.argv) > 1 else 50
EPOCHS = int(sys.argv[2]) if len(sys.argv) > 2 else 40
FILES = ("DDPMDenoiser.ckpt", "DDPMDenoiser.pth", "DDPMDenoiser_raw.pth")


def start(folder):
    return subprocess.Popen(
        [sys.executable, PROGRAMS / "train.py", folder, str(EPOCHS)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=child_environment(),
    )


def runs_to_its_end(folder, seconds):
    """Whether a session of at most `seconds` after its first batch finished the run; else it was killed."""
    process = start(folder)
    lines = iter(process.stdout.readline, "")
    begun = next((line for line in lines if line.startswith(("step", "done"))), "")
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return False
    assert process.returncode == 0 and "done" in begun + out, err
    return True


def difference(a, b, path):
    """The first place where two loaded files differ, or None."""
    if type(a) is not type(b):
        return path
    if isinstance(a, torch.Tensor):
        return None if a.dtype == b.dtype and torch.equal(a, b) else path
    if isinstance(a, dict):
        if list(a) != list(b):
            return path
        found = (difference(a[key], b[key], f"{path}[{key!r}]") for key in a)
    elif isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return path
        found = (difference(x, y, f"{path}[{i}]") for i, (x, y) in enumerate(zip(a, b, strict=True)))
    else:
        return None if a == b else path
    return next((place for place in found if place is not None), None)


def loaded(folder):
    return {name: torch.load(folder / name, weights_only=True) for name in FILES}


def main():
    chance = random.Random(2024)
    with tempfile.TemporaryDirectory() as scratch:
        began = time.monotonic()
        assert runs_to_its_end(Path(scratch) / "alone", 3600)
        expected = loaded(Path(scratch) / "alone")
        kills = compared = 0
        while kills < KILLS:
            folder = Path(scratch) / f"killed-{compared}"
            while not runs_to_its_end(folder, chance.uniform(0.0, 0.6) if kills < KILLS else 3600):
                kills += 1
                if (folder / FILES[0]).exists():
                    epoch = torch.load(folder / FILES[0], weights_only=True)["epoch"]
                    print(f"kill {kills}: epoch {epoch} is on the disk", flush=True)
            place = difference(loaded(folder), expected, "files")
            if place is not None:
                raise SystemExit(f"after {kills} kills the files differ at {place}")
            left = sorted(path.name for path in folder.iterdir())
            assert left == sorted(FILES), left
            compared += 1
        print(
            f"{kills} kills, {compared} runs to their end, all equal bit for bit "
            f"({time.monotonic() - began:.0f} s)"
        )


if __name__ == "__main__":
    main()
