"""`train` under torchrun: torchrun_train.py FOLDER EPOCHS [DYING_RANK]; rank 0 prints the history as JSON."""

import json
import os
import sys

import torch

import rust_diffusion as rd
from tools import TINY, slices

folder, epochs = sys.argv[1], int(sys.argv[2])
dying = int(sys.argv[3]) if len(sys.argv) > 3 else None
rank = int(os.environ.get("RANK", 0))


torch.set_num_threads(1)
torch.manual_seed(0)
model = rd.DiffusionUNet(**TINY)


class Dying(torch.utils.data.Dataset):
    """Slices; the dying rank leaves without a word after some of them."""

    images, fetched = slices(16), 0

    def __len__(self):
        return 16

    def __getitem__(self, index):
        Dying.fetched += 1
        if rank == dying and Dying.fetched > 20:
            os._exit(9)
        return self.images[index]


result = rd.train(
    model,
    slices(16) if dying is None else Dying(),
    betas=rd.cosine_beta_schedule(20),
    epochs=epochs,
    batch_size=8,
    learning_rate=1e-3,
    seed=7,
    weights_dir=folder,
    device="cpu",
    precision="fp32",
    progress=True,
)
checksum = sum(p.double().abs().sum().item() for p in model.parameters())
print(json.dumps({"rank": rank, "history": result.history, "checksum": checksum}))
