"""Damaged and hostile files by the thousand: damage.py [CASES], so many of each kind of file.

Files are cut, bits flipped, bytes replaced, left out, and other files put in their place. Each must be refused by a
built-in exception that names it, or give exactly what the whole file gave; a result that differs is counted as lost.
"""

import json
import os
import random
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch

import images as pictures
import rust_diffusion as rd
from ledger import Ledger
from tools import same_state, slices

CASES = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
SMALL = dict(base_ch=8, channel_mults=(1, 2), attn_levels=(1,), time_dim=8, num_heads=2, dropout=0.1)
BETAS = rd.cosine_beta_schedule(20)
REFUSALS = (ValueError, OSError, MemoryError)


def damaged(whole, foreign, chance):
    """A copy of `whole` with one kind of damage."""
    content, kind = bytearray(whole), chance.randrange(7)
    place = chance.randrange(len(content))
    if kind == 0:
        return bytes(content[:place])
    if kind == 1:
        for _ in range(chance.choice([1, 1, 2, 10])):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    elif kind == 2:  # where the formats keep what they say of themselves
        near = chance.randrange(min(len(content), 2000))
        content[near if chance.random() < 0.5 else -1 - near] = chance.randrange(256)
    elif kind == 3:
        del content[place : place + chance.randrange(1, 40)]
    elif kind == 4:
        content[place : place + 8] = chance.choice([b"\xff" * 8, b"\0" * 8, b"\x7f" * 8])
    elif kind == 5:
        content[place:place] = bytes(chance.randrange(256) for _ in range(chance.randrange(1, 20)))
    else:
        return chance.choice(foreign)
    return bytes(content)


def try_all(ledger, what, path, read, same, foreign, named=None, others="others gave the same as before"):
    """`read()` after each damage to `path`; `same(result)` says whether it is what the whole file gives."""
    whole, chance = path.read_bytes(), random.Random(what)
    assert same(read())
    with ledger.row(f"damaged {what}") as row:
        refused = 0
        for k in range(CASES):
            content = damaged(whole, foreign, chance)
            path.write_bytes(content)
            try:
                row.check(same(read()), f"case {k}: taken, and something else than the whole file")
            except REFUSALS as error:
                refused += 1
                row.check((named or path.name) in str(error), f"case {k}: not named: {error}")
            except BaseException as error:
                row.check(False, f"case {k}: {type(error).__name__}: {str(error)[:200]}")
        row.remark = f"{refused} refused, the {others}"
    path.write_bytes(whole)


def weights_and_checkpoints(ledger, folder, foreign):
    data, options = slices(8), dict(betas=BETAS, batch_size=4, device="cpu", seed=3, progress=False)
    torch.manual_seed(0)
    rd.train(rd.DiffusionUNet(**SMALL), data, epochs=1, weights_dir=folder, **options)
    path = folder / "DDPMDenoiser.pth"
    weights = torch.load(path, weights_only=True)

    def same(model):
        return same_state(model.state_dict(), weights)

    try_all(ledger, "weights (.pth)", path, lambda: rd.load(path), same, foreign)
    checkpoint = folder / "DDPMDenoiser.ckpt"
    try_all(ledger, "checkpoints (.ckpt), loaded", checkpoint, lambda: rd.load(checkpoint), same, foreign)

    def resume(epochs=2):
        model = rd.DiffusionUNet(**SMALL)
        # read and checked, and no step made: the run has reached its target
        rd.train(model, data, epochs=epochs, max_steps=1, weights_dir=folder, **options)
        return model

    whole = resume().state_dict()
    for name in ("DDPMDenoiser.pth", "DDPMDenoiser_raw.pth"):
        (folder / name).unlink()  # so that nothing but the checkpoint is there to go on from
    try_all(
        ledger,
        "checkpoints (.ckpt), resumed from",
        checkpoint,
        resume,
        lambda model: same_state(model.state_dict(), whole),
        foreign,
    )


def folders(ledger, folder, foreign):
    model = rd.DiffusionUNet(**SMALL).eval()
    model.save_pretrained(folder, betas=BETAS, image_size=8)

    def same(found):
        return (
            same_state(found.state_dict(), model.state_dict())
            and torch.equal(found.betas, BETAS)
            and (found.image_size, found.objective) == ((8, 8), "eps")
        )

    path = folder / "model.safetensors"
    try_all(ledger, "model.safetensors", path, lambda: rd.load(folder), same, foreign)
    # either file may be named: they are checked against each other
    try_all(
        ledger, "config.json", folder / "config.json", lambda: rd.load(folder), same, foreign, str(folder)
    )


def a_picture(x):
    return x.shape == (1, 1, 8, 8) and bool(x.isfinite().all())


def picture_files(ledger, folder, foreign):
    """No reference here: without a checksum a changed pixel is a picture too. It must have its shape and be finite."""
    for kind in (
        "palette",
        "rgba",
        "interlaced-rgba",
        "jpeg-420",
        "jpeg-progressive",
        "tiff-rgb-lzw",
        "tiff-grey",
    ):
        suffix, save = pictures.KINDS[kind]
        path = folder / f"{kind}{suffix}"
        save(path, 24, 18)
        try_all(
            *(ledger, f"{kind} image", path, lambda path=path: rd.load_images(path, 8, progress=False)),
            *(a_picture, foreign, None, "others still pictures"),
        )
    path = folder / "slice.dcm"
    pictures.dicom(path, np.arange(24 * 18, dtype="<u2").reshape(24, 18))
    try_all(
        *(ledger, "DICOM image", path),
        *(lambda: rd.load_images(path, 8, window=(40, 400), progress=False),),
        *(a_picture, foreign, None, "others still pictures"),
    )


def cache(ledger, folder, foreign):
    """A damaged cache is rebuilt: always the same images."""
    pictures.KINDS["grey"][1](folder / "a.png", 24, 18)
    path = folder / "set.cache"
    images = rd.load_images(folder / "a.png", 8, cache=path, progress=False)
    try_all(
        *(ledger, "cache of images (rebuilt)", path),
        *(lambda: rd.load_images(folder / "a.png", 8, cache=path, progress=False),),
        *(lambda x: torch.equal(x, images), foreign),
    )


def strangers(folder):
    """Contents that belong to somebody else."""
    torch.save(torch.nn.Linear(3, 3).state_dict(), folder / "linear.pt")
    pictures.KINDS["rgb"][1](folder / "a.png", 8, 8)
    kinds = [
        b"",
        b"\0" * 5000,
        os.urandom(5000),
        b"weights",
        b"PK\x03\x04",
        json.dumps({"a": 1}).encode(),
        b"[" * 10**5,
    ]
    return kinds + [(folder / name).read_bytes() for name in ("linear.pt", "a.png")]


def main():
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    ledger = Ledger()
    with tempfile.TemporaryDirectory() as scratch:
        parts = (weights_and_checkpoints, folders, picture_files, cache)
        for part in (strangers, *parts):
            (Path(scratch) / part.__name__).mkdir()
        foreign = strangers(Path(scratch) / "strangers")
        for part in parts:
            part(ledger, Path(scratch) / part.__name__, foreign)
    ledger.close()


if __name__ == "__main__":
    main()
