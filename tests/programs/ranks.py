"""One rank of `train` in a group of one's own: ranks.py FOLDER CASE RANK WORLD.

What came of it is written to FOLDER/CASE.RANK.json; then the process stays, with its connections open, until its
standard input is closed: no rank may end merely because another has gone.
"""

import errno
import json
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

import rust_diffusion as rd
from tools import TINY, slices

folder, case, rank, world = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])


class Fetched(torch.utils.data.Dataset):
    """Slices that do something when `count` of them have been fetched."""

    def __init__(self, count=-1, then=None):
        self.images, self.left, self.then = slices(8), count, then

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.left -= 1
        if self.left == -1:
            self.then()
        return self.images[index]


class Unportable(Exception):
    """Cannot be pickled."""

    def __reduce__(self):
        raise TypeError("not me")


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def lose():
    raise LookupError("lost")


def complain(info):
    raise Unportable("mine")


def fill_the_disk():
    """From when the length of the run is settled, nothing can be written."""
    from rust_diffusion.files import checkpoint

    save = checkpoint.save

    def full(value, path):
        if "updates" in value.get(checkpoint.OWN, {}).get("plan", {}):  # weights are saved without a plan
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        save(value, path)

    checkpoint.save = full


# (training data, held-out data, callback) of this rank
SCENES = {
    "plain": lambda: (Fetched(), slices(4, seed=9), None),
    "again": lambda: (Fetched(), slices(4, seed=9), None),
    "interrupt 0": lambda: (Fetched(10, interrupt) if rank == 0 else Fetched(), None, None),
    "interrupt 1": lambda: (Fetched(10, interrupt) if rank == 1 else Fetched(), None, None),
    "terminate": lambda: (Fetched(10, terminate) if rank == 1 else Fetched(), None, None),
    "broken data": lambda: (Fetched(10, lose) if rank == 1 else Fetched(), None, None),
    "interrupt in validation": lambda: (Fetched(), Fetched(12, interrupt), None),
    "callback": lambda: (Fetched(), None, complain),
    "slow": lambda: (Fetched(), Fetched(2, lambda: time.sleep(6)), None),
    "full disk": lambda: (Fetched(0, fill_the_disk) if rank == 0 else Fetched(), None, None),
}

torch.set_num_threads(1)
# what a rank waits for gradients; only "slow" makes the others wait longer
timeout = timedelta(seconds=3 if case == "slow" else 60)
dist.init_process_group(
    "gloo", init_method=f"file://{folder / case}.store", rank=rank, world_size=world, timeout=timeout
)
torch.manual_seed(1)
data, held_out, callback = SCENES[case]()
length = dict(minutes=0.05) if case == "full disk" else dict(epochs=3)
options = dict(betas=rd.cosine_beta_schedule(20), **length, batch_size=4, learning_rate=1e-3, seed=7)
said = {}
try:
    model = rd.DiffusionUNet(**{**TINY, "dropout": 0.1})
    result = rd.train(
        *(model, data),
        **dict(val_data=held_out, callback=callback, weights_dir=folder / "run", device="cpu"),
        **dict(precision="fp32", progress=False, **options),
    )
    said = dict(
        outcome="done",
        best_loss=result.best_loss,
        history=result.history,
        val_history=result.val_history,
        epochs_run=result.epochs_run,
        paths=sorted(result.paths),
        checksum=sum(p.double().abs().sum().item() for p in model.parameters()),
    )
except BaseException as error:
    said = dict(outcome=type(error).__name__, text=str(error))
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "the handler was not put back"
partial = folder / f"{case}.{rank}.json.tmp"
partial.write_text(json.dumps(said))
partial.rename(folder / f"{case}.{rank}.json")
sys.stdin.read()
os._exit(0)
