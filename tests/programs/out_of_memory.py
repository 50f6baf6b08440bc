"""Batches too large for memory: out_of_memory.py [CASES]. Each in a fork of its own with less and less room.

The limit (RLIMIT_AS) is on the child's address space. Training, sampling and single calls must go through, or end in a
MemoryError that says which size to try; after it the same objects must work with a batch that fits.
"""

import os
import random
import re
import resource
import sys
import tempfile
from pathlib import Path

import torch

import rust_diffusion as rd
from ledger import Ledger
from tools import TINY, slices

CASES = int(sys.argv[1]) if len(sys.argv) > 1 else 60
BETAS = rd.cosine_beta_schedule(20)
ALPHA_BARS = torch.cumprod(1 - BETAS, 0)
OPTIONS = dict(betas=BETAS, device="cpu", precision="fp32", progress=False)
MEGABYTE = 2**20
BATCH = 512
DATA = slices(BATCH, size=16)


def train(model, batch, folder):
    rd.train(
        model, DATA[:batch], epochs=1, batch_size=batch, weights_dir=folder, force_restart=True, **OPTIONS
    )


def train_from_a_loader(model, batch, folder):
    loader = torch.utils.data.DataLoader(DATA[:batch], batch_size=batch)
    rd.train(model, loader, epochs=1, weights_dir=folder, force_restart=True, **OPTIONS)


def sample(model, batch, folder):
    rd.ddim_sample(model, batch, (1, 16, 16), ALPHA_BARS, "cpu", 2, seed=0, progress=False)


def sample_all_steps(model, batch, folder):
    rd.ddpm_sample(
        *(model, batch, (1, 16, 16), BETAS, 1 - BETAS, ALPHA_BARS, "cpu"), seed=range(batch), progress=False
    )


def in_a_fork(work):
    """What `work()` returns as text, or how the child died."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, work().encode()[:60_000])
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return text if code == 0 else f"died of signal {-code}"


def case(call, room, folder):
    model = rd.DiffusionUNet(**TINY)
    call(model, 2, folder)  # what is made once
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + room, resource.RLIM_INFINITY))
    try:
        call(model, BATCH, folder)
        said = "went through"
    except MemoryError as error:
        said = f"refused: {error}"
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    call(model, 2, folder)
    return said


def main():
    torch.set_num_threads(1)
    ledger, chance = Ledger(), random.Random(3)
    for call in (train, train_from_a_loader, sample, sample_all_steps):
        with (
            ledger.row(f"out of memory: {call.__name__.replace('_', ' ')}") as row,
            tempfile.TemporaryDirectory() as folder,
        ):
            refused = 0
            for k in range(CASES):
                room = int(MEGABYTE * 2 ** chance.uniform(-2, 8))
                said = in_a_fork(lambda call=call, room=room, folder=folder: case(call, room, Path(folder)))
                if said.startswith("refused"):
                    refused += 1
                    row.check(
                        re.search(rf"try .*\b{BATCH // 2}\b|smaller base_ch", said),
                        f"case {k}, {room}: {said[:300]}",
                    )
                else:
                    row.check(said == "went through", f"case {k}, {room}: {said[:300]}")
            row.remark = f"{refused} refused with a size to try"
    ledger.close()


if __name__ == "__main__":
    main()
