"""Kill a run again and again: kill_and_resume.py [KILLS] [EPOCHS] [SHARE] [SIGNAL].

SIGNAL is KILL (the default), TERM, INT or all. Each time the run is started anew on the same folder, and has after its
first batch up to SHARE (0.4) of the time that a run takes which is left alone. When it comes to its end, everything it
wrote is compared bit for bit with that one, and the next one begins. Exit status 1 at any difference.
"""

import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from ledger import Ledger
from tools import PROGRAMS, child_environment

KILLS = int(sys.argv[1]) if len(sys.argv) > 1 else 50
EPOCHS = int(sys.argv[2]) if len(sys.argv) > 2 else 40
SHARE = float(sys.argv[3]) if len(sys.argv) > 3 else 0.4
SIGNALS = ("KILL", "TERM", "INT") if sys.argv[4:] == ["all"] else sys.argv[4:] or ["KILL"]
FILES = ("DDPMDenoiser.ckpt", "DDPMDenoiser.pth", "DDPMDenoiser_raw.pth")


def start(folder):
    return subprocess.Popen(
        [sys.executable, PROGRAMS / "train.py", folder, str(EPOCHS)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=child_environment(),
    )


def runs_to_its_end(folder, seconds, name="KILL"):
    """Whether a session of at most `seconds` after its first batch finished the run; else it was sent the signal."""
    process = start(folder)
    lines = iter(process.stdout.readline, "")
    begun = next((line for line in lines if line.startswith(("step", "done"))), "")
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(getattr(signal, f"SIG{name}"))
        process.communicate(timeout=60)
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


def left_alone(folder):
    """How long an undisturbed run takes after its first batch."""
    process = start(folder)
    process.stdout.readline()
    began = time.monotonic()
    process.communicate()
    assert process.returncode == 0
    return time.monotonic() - began


def killed(name, seconds, expected, scratch, row, chance):
    """KILLS signals in all, in one run after the other, each compared with `expected` at its end."""
    compared, inside, scraps = 0, 0, 0
    while row.tried < KILLS:
        folder = scratch / f"{name}-{compared}"
        while not runs_to_its_end(folder, chance.uniform(0.0, seconds) if row.tried < KILLS else 3600, name):
            row.tried += 1
            there = (folder / FILES[0]).exists()
            epoch = torch.load(folder / FILES[0], weights_only=True)["epoch"] if there else None
            half = [path.name for path in folder.glob(".*.tmp")]
            print(f"SIG{name} {row.tried}: epoch on the disk {epoch}, half-written {half}", flush=True)
            inside, scraps = inside + there, scraps + bool(half)
        place = difference(loaded(folder), expected, "files")
        if place is not None:
            row.lost.append(f"after {row.tried} signals the files differ at {place}")
        left = sorted(path.name for path in folder.iterdir())
        if left != sorted(FILES):
            row.lost.append(f"left behind: {left}")
        compared += 1
    row.remark = (
        f"{inside} with a checkpoint there, {scraps} within a write; {compared} runs compared bit for bit"
    )


def main():
    chance, ledger = random.Random(2024), Ledger()
    with tempfile.TemporaryDirectory() as scratch:
        seconds = SHARE * left_alone(Path(scratch) / "alone")
        expected = loaded(Path(scratch) / "alone")
        for name in SIGNALS:
            with ledger.row(f"SIG{name} at a random moment, then resumed") as row:
                killed(name, seconds, expected, Path(scratch), row, chance)
    ledger.close()


if __name__ == "__main__":
    main()
