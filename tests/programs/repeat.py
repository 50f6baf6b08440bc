"""The same seed again, in fresh processes and whatever ran before: repeat.py [ROUNDS].

Each child does something else first, then trains, samples and draws phantoms, and prints what their bits amount to.
On the same number of threads all must be the same.
"""

import gc
import hashlib
import os
import random
import sys
import tempfile

import numpy as np
import torch

import rust_diffusion as rd
from ledger import Ledger
from tools import PROGRAMS, TINY, run_python, slices

BETAS = rd.cosine_beta_schedule(20)


def digest(tensors):
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


def results(**options):
    """What training, sampling and phantoms give, as hashes."""
    torch.manual_seed(11)
    model = rd.DiffusionUNet(**{**TINY, "dropout": 0.1})
    fixed = dict(betas=BETAS, epochs=2, batch_size=4, seed=5, device="cpu", precision="fp32", progress=False)
    result = rd.train(model, slices(18), **{**fixed, **options})
    model.eval()
    ddim = model.sample(3, "ddim", seed=1, sample_steps=5, progress=False)
    ddpm = model.sample(3, "ddpm", seed=1, batch_size=2, progress=False)
    phantoms = rd.phantoms(3, 32, seed=9, progress=False)
    trained = [*model.parameters(), *result.ema.shadow.parameters(), torch.tensor(result.history)]
    return " ".join(digest(tensors) for tensors in (trained, [ddim], [ddpm], [phantoms]))


def nothing():
    """The first thing in a process."""


def another_run():
    other = rd.DiffusionUNet(base_ch=8, num_heads=2)
    rd.train(other, slices(9, size=16), betas=BETAS, epochs=1, batch_size=2, device="cpu", progress=False)
    other.sample(2, progress=False)


def random_numbers():
    torch.rand(1001)
    random.random()
    np.random.default_rng().random()


def threads_there_and_back():
    before = torch.get_num_threads()
    torch.set_num_threads(3 - before)
    another_run()
    torch.set_num_threads(before)


def errors():
    for call in (lambda: rd.phantoms(0), lambda: rd.DiffusionUNet(base_ch=-1), lambda: rd.load("nowhere")):
        try:
            call()
        except (ValueError, FileNotFoundError):
            gc.collect()


def memory_in_use():
    """Blocks of all sizes full of NaN, given back: what is read before it is written shows."""
    blocks = [torch.full((size,), float("nan")) for size in range(1, 40_000, 37)]
    del blocks


def twice():
    results()


BEFORE = (nothing, another_run, random_numbers, threads_there_and_back, errors, memory_in_use, twice)


def child(name, threads):
    torch.set_num_threads(int(threads))
    next(before for before in BEFORE if before.__name__ == name)()
    # memory that torch hands out is filled with NaN in the deterministic mode
    first = results(deterministic=name == "memory_in_use")
    with tempfile.TemporaryDirectory() as folder:
        assert results(weights_dir=folder) == first, "twice in one process"
    print(first)


def main(rounds):
    ledger = Ledger()
    for threads in ("1", "2"):
        with ledger.row(f"same bits from training, DDIM, DDPM and phantoms, {threads} thread(s)") as row:
            expected = None
            for k in range(rounds):
                for before in BEFORE:
                    with row.case(f"round {k}, after {before.__name__}"):
                        environment = {
                            "PYTHONHASHSEED": str(k),
                            "MALLOC_PERTURB_": str(os.getpid() % 254 + 1),
                        }
                        done = run_python(
                            PROGRAMS / "repeat.py", "child", before.__name__, threads, **environment
                        )
                        assert done.returncode == 0, done.report
                        expected = expected or done.stdout
                        assert done.stdout == expected, f"{done.stdout} and not {expected}"
            row.remark = "in fresh processes, after other work, with memory filled with other numbers"
    ledger.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(*sys.argv[2:])
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
