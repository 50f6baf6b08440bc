"""Files that cannot be used or written: a clear error, nothing lost, and no stranger's code run."""

import errno
import pickle
import shutil

import pytest
import torch

from tools import TINY, run_python, slices


@pytest.fixture
def fit(rd, oracle, tmp_path):
    """fit(**options): a run of two epochs in tmp_path."""

    def run(**options):
        configuration = options.pop("configuration", TINY)
        fixed = dict(epochs=2, batch_size=4, seed=3, device="cpu", precision="fp32", progress=False)
        betas = oracle.cosine_beta_schedule(20)
        model = rd.DiffusionUNet(**configuration)
        return rd.train(model, slices(8), betas=betas, weights_dir=tmp_path, **{**fixed, **options})

    return run


class Bomb:
    """Unpickling this would run code."""

    def __reduce__(self):
        return exec, ("raise SystemExit('a stranger ran code')",)


def truncated(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def without(key):
    def spoil(path):
        checkpoint = torch.load(path, weights_only=True)
        del checkpoint[key]
        torch.save(checkpoint, path)

    return spoil


def changed(key, value):
    def spoil(path):
        checkpoint = torch.load(path, weights_only=True)
        checkpoint[key] = value
        torch.save(checkpoint, path)

    return spoil


def moments_of_another_shape(path):
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["optimizer"]["state"][0]["exp_avg"] = torch.zeros(3)
    torch.save(checkpoint, path)


SPOILED = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": truncated,
    "not a checkpoint": lambda path: path.write_text("weights, honestly"),
    "a picture": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100)),
    "a tensor": lambda path: torch.save(torch.zeros(3), path),
    "a plain state dict": lambda path: torch.save(torch.nn.Linear(2, 2).state_dict(), path),
    "a stranger's pickle": lambda path: path.write_bytes(pickle.dumps(Bomb())),
    "a stranger's pickle in torch's format": lambda path: torch.save({"model": Bomb()}, path),
    "no model": without("model"),
    "no optimizer": without("optimizer"),
    "an epoch of text": changed("epoch", "five"),
    "a negative epoch": changed("epoch", -7),
    "a history of text": changed("history", "long"),
    "another network": changed("model", torch.nn.Linear(2, 2).state_dict()),
    "an EMA of another network": changed("ema", {"decay": 0.9, "shadow": {}}),
    "an EMA without decay": changed("ema", {"shadow": {}}),
    "an empty optimizer": changed("optimizer", {}),
    "moments of another shape": moments_of_another_shape,
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED.keys())
def test_a_checkpoint_that_cannot_be_used_is_named_and_kept(fit, tmp_path, spoil):
    fit(epochs=1)
    path = tmp_path / "DDPMDenoiser.ckpt"
    spoil(path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises((ValueError, RuntimeError, OSError), match=r"DDPMDenoiser\.ckpt"):
        fit()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert fit(force_restart=True).epochs_run == 2


def test_a_checkpoint_of_another_architecture_says_what_differs(fit, tmp_path):
    fit(epochs=1)
    before = (tmp_path / "DDPMDenoiser.ckpt").read_bytes()
    with pytest.raises(
        (ValueError, RuntimeError), match=r"(?s)DDPMDenoiser\.ckpt.*(init\.weight|shape|architecture)"
    ):
        fit(configuration={**TINY, "base_ch": 32})
    assert (tmp_path / "DDPMDenoiser.ckpt").read_bytes() == before


def test_the_model_is_untouched_when_its_checkpoint_is_refused(rd, oracle, tmp_path, fit):
    fit(epochs=1)
    changed("optimizer", {})(tmp_path / "DDPMDenoiser.ckpt")
    model = rd.DiffusionUNet(**TINY)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises((ValueError, RuntimeError)):
        rd.train(
            model,
            slices(4),
            betas=oracle.cosine_beta_schedule(20),
            epochs=2,
            weights_dir=tmp_path,
            progress=False,
        )
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_weights_that_cannot_be_used_are_named_and_kept(fit, tmp_path):
    torch.save({"other": torch.zeros(1)}, tmp_path / "DDPMDenoiser.pth")
    before = (tmp_path / "DDPMDenoiser.pth").read_bytes()
    with pytest.raises((ValueError, RuntimeError), match=r"DDPMDenoiser\.pth"):
        fit()
    assert (tmp_path / "DDPMDenoiser.pth").read_bytes() == before


def test_remains_of_a_killed_write_do_no_harm(fit, tmp_path):
    fit(epochs=1)
    (tmp_path / "DDPMDenoiser.ckpt.tmp").write_bytes(b"half of a file")
    assert fit().epochs_run == 1


IN_A_SMALL_FOLDER = """
import errno, os, pathlib, sys, torch
import rust_diffusion as rd
from tools import TINY, slices

folder = pathlib.Path(sys.argv[1])
os.system(f"mount -t tmpfs -o size={sys.argv[2]} tmpfs {folder}")
torch.manual_seed(0)
model = rd.DiffusionUNet(**TINY)
options = dict(betas=rd.cosine_beta_schedule(20), batch_size=4, device="cpu", progress=False)
rd.train(model, slices(8), epochs=1, weights_dir=folder, **options)
good = {file.name: file.read_bytes() for file in folder.iterdir()}
room = os.statvfs(folder)
if sys.argv[3] == "full":
    with open(folder / "filler", "wb") as filler:
        filler.write(bytes(room.f_bavail * room.f_bsize - 8192))
else:
    os.system(f"mount -o remount,ro {folder}")
try:
    rd.train(model, slices(8), epochs=3, weights_dir=folder, **options)
except OSError as error:
    print("refused:", error)
    assert error.errno in (errno.ENOSPC, errno.EROFS, None), error
else:
    raise SystemExit("the run went through")
left = {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "filler"}
assert left == good, (sorted(left), sorted(good))
assert torch.load(folder / "DDPMDenoiser.ckpt", weights_only=True)["epoch"] == 0
"""


@pytest.mark.parametrize("trouble, message", [("full", "space|full"), ("read-only", "[Rr]ead-only|writ")])
def test_a_folder_that_takes_no_more_loses_nothing(tmp_path, trouble, message):
    """In a mount namespace of its own, so that neither root nor the machine's disks matter."""
    unshare = shutil.which("unshare")
    namespace = [unshare, "--map-root-user", "--mount"]
    if (
        unshare is None
        or run_python(
            "-c", "import os; exit(os.system('mount -t tmpfs tmpfs /mnt'))", prefix=namespace
        ).returncode
    ):
        pytest.skip("no mount namespace can be made here")
    done = run_python("-c", IN_A_SMALL_FOLDER, tmp_path, "32m", trouble, prefix=namespace)
    assert done.returncode == 0, done.report
    assert tmp_path.name in done.stdout or "DDPMDenoiser" in done.stdout, (
        "the message names the file or its folder"
    )


def test_a_folder_that_cannot_be_made_is_named_before_training(rd, oracle, tmp_path):
    (tmp_path / "file").write_text("")
    epochs = []
    with pytest.raises(OSError, match="file") as caught:
        rd.train(
            *(rd.DiffusionUNet(**TINY), slices(4)),
            **dict(betas=oracle.cosine_beta_schedule(5), epochs=1, weights_dir=tmp_path / "file" / "weights"),
            **dict(device="cpu", progress=False, callback=epochs.append),
        )
    assert caught.value.errno in (errno.ENOTDIR, errno.EEXIST, None) and not epochs
