"""Peak memory of one training step, in a process of its own.

`python -m benchmarks.memory CONTENDER BATCH SIZE`
"""

from __future__ import annotations

import sys

import rust_diffusion as rd
import torch

from benchmarks.harness.measure import peak, reset_peak
from benchmarks.peers import contenders


def main() -> None:
    """Print the peak in MiB above what was resident before the first step."""
    name, batch, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    contender = next(c for c in contenders.contenders("cpu", size, compiled=False) if c.name == name)
    images = torch.randn(batch, 1, size, size).clamp(-1, 1)
    before = reset_peak()
    contender.train(images, rd.cosine_beta_schedule(400), 2)
    print(peak() - before)


if __name__ == "__main__":
    main()
