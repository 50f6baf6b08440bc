"""Timing: everybody does the same work in turn, several rounds; medians and spreads."""

from __future__ import annotations

import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm.auto import tqdm


@dataclass
class Timing:
    """Seconds of each round."""

    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """(slowest - fastest) / median."""
        return (max(self.seconds) - min(self.seconds)) / self.median


def alternate(
    work: Mapping[str, Callable[[], object]], rounds: int, device: str, title: str, *, warm: bool = False
) -> dict[str, Timing]:
    """Time each piece of work once per round, in turn; unless all are `warm`, after one untimed run of each."""
    timings = {name: Timing() for name in work}
    untimed = 0 if warm else 1
    bar = tqdm(total=(rounds + untimed) * len(work), desc=title, unit="run", leave=False)
    for index in range(rounds + untimed):
        for name, run in work.items():
            gc.collect()
            wait(device)
            start = time.perf_counter()
            run()
            wait(device)
            if index >= untimed:
                timings[name].seconds.append(time.perf_counter() - start)
            bar.update()
    bar.close()
    return timings


def wait(device: str) -> None:
    """Wait until the device has done what it was asked."""
    if device == "cuda":
        torch.cuda.synchronize()


def import_time(module: str, rounds: int) -> Timing:
    """Seconds that a new Python takes to import `module`, torch included."""
    timing = Timing()
    for _ in range(rounds):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
        timing.seconds.append(time.perf_counter() - start)
    return timing


def peak_memory(program: Iterable[str]) -> float:
    """Return the number of MiB that `program` prints as its last line."""
    out = subprocess.run([sys.executable, "-m", *program], check=True, capture_output=True, text=True).stdout
    return float(out.strip().splitlines()[-1])


def reset_peak() -> float:
    """Forget this process's peak of memory, so that `peak` tells what comes from now on; return what it holds, in MiB.

    The kernel's mark, which `resource` reads, begins at what the parent process had, and has the imports in it.
    """
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc(5), Linux
    return peak()


def peak() -> float:
    """Return the most that this process has held, in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
