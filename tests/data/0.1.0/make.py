"""Makes the files beside this one. It was run once, with rust_diffusion 0.1.0; what they hold must stay readable.

python make.py, in an empty folder.
"""

import shutil
from pathlib import Path

import torch
from PIL import Image

import rust_diffusion as rd

HERE = Path.cwd()
MODEL = dict(
    base_ch=8, channel_mults=(1, 2), time_dim=16, attn_levels=(1,), num_heads=2, in_ch=1, dropout=0.1
)
RUN = dict(epochs=2, batch_size=4, seed=0, objective="v", ema_decay=0.5, device="cpu", progress=False)


def run(folder, **options):
    torch.manual_seed(0)
    data, betas = rd.phantoms(8, size=16), rd.linear_beta_schedule(20, 1e-3, 0.4)
    return rd.train(rd.DiffusionUNet(**MODEL), data, betas=betas, weights_dir=folder, **{**RUN, **options})


def make():
    """One epoch of two, and what came of the second."""
    assert rd.__version__ == "0.1.0"
    torch.set_num_threads(1)
    begun = run(HERE / "run", callback=lambda info: False)
    begun.ema.shadow.save_pretrained(HERE / "pretrained")
    shutil.copytree(HERE / "run", HERE / "resumed")
    finished = run(HERE / "resumed")
    shutil.rmtree(HERE / "resumed")

    (HERE / "slices").mkdir()
    for k, image in enumerate(rd.phantoms(3, size=16, dtype=torch.uint8)):
        Image.fromarray(image[0].numpy()).save(HERE / "slices" / f"{k}.png")
    rd.load_images(HERE / "slices", 8, cache=HERE / "slices.cache", progress=False)

    expected = {
        "samples": begun.ema.shadow.sample(2, "ddim", sample_steps=5, seed=3, progress=False),
        "history": finished.history,
        "samples of the finished run": finished.ema.shadow.sample(2, "ddpm", seed=3, progress=False),
    }
    torch.save(expected, HERE / "expected.pt")


if __name__ == "__main__":
    make()
