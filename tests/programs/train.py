"""Train a tiny network in a folder, to be interrupted or killed: train.py FOLDER EPOCHS [STEP_SECONDS].

Prints "step K" as each batch is asked for, and "done" at the end. With STEP_SECONDS each batch takes that
long, so that a signal finds the run inside an epoch.
"""

import random
import sys
import time

import numpy as np
import torch

import rust_diffusion as rd
from tools import TINY, slices

folder, epochs = sys.argv[1], int(sys.argv[2])
pause = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0


class SlowSlices(torch.utils.data.Dataset):
    """Twelve images; the fetching of each fourth is announced."""

    images = slices(12)
    fetched = 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        SlowSlices.fetched += 1
        if SlowSlices.fetched % 4 == 0:
            print("step", SlowSlices.fetched // 4, flush=True)
            time.sleep(pause)
        return self.images[index]


torch.set_num_threads(1)
torch.manual_seed(0)
# not drawn from, but kept in the checkpoint, which is compared
random.seed(0)
np.random.seed(0)  # noqa: NPY002 - the global generator is the one that is kept
model = rd.DiffusionUNet(**{**TINY, "dropout": 0.1})
rd.train(
    model,
    SlowSlices(),
    betas=rd.cosine_beta_schedule(20),
    epochs=epochs,
    batch_size=4,
    learning_rate=1e-3,
    seed=7,
    weights_dir=folder,
    device="cpu",
    precision="fp32",
    progress=False,
)
print("fetched", SlowSlices.fetched)
print("done")
