"""Trouble with the folder of a run: disk.py [CASES]. Full, read-only, vanished, a write cut short, a clock that jumps.

After each trouble the checkpoint must be whole (the old or the new one), no scraps be left, and the run, once all is
well again, end in the same bits as one that was left alone. Full and read-only disks are small ones in memory, in a
mount namespace of this program's own; where none can be made those rows are left out and said so.
"""

import contextlib
import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import rust_diffusion as rd
from ledger import Ledger
from tools import TINY, same_state, slices

CASES = int(sys.argv[1]) if len(sys.argv) > 1 else 40
EPOCHS = 4
NAME = "DDPMDenoiser"
FILES = {f"{NAME}.ckpt", f"{NAME}.pth", f"{NAME}_raw.pth"}
MEGABYTE = 2**20


def fit(folder, **options):
    torch.manual_seed(0)
    model = rd.DiffusionUNet(**{**TINY, "dropout": 0.1})
    fixed = dict(epochs=EPOCHS, batch_size=4, seed=7, learning_rate=1e-3, device="cpu", progress=False)
    betas = rd.cosine_beta_schedule(20)
    rd.train(model, slices(12), betas=betas, weights_dir=folder, **{**fixed, **options})
    return model


def mounted():
    """Start again in a mount namespace of our own; False if that cannot be had."""
    if os.environ.get("OWN_NAMESPACE"):
        return os.environ["OWN_NAMESPACE"] == "yes"
    unshare = shutil.which("unshare")
    prefix = [unshare, "--map-root-user", "--mount"]
    possible = unshare is not None and not subprocess.call(
        [*prefix, "sh", "-c", "mount -t tmpfs tmpfs /mnt"], stderr=subprocess.DEVNULL
    )
    os.environ["OWN_NAMESPACE"] = "yes" if possible else "no"
    command = [sys.executable, *sys.argv]
    sys.exit(subprocess.call([*prefix, *command] if possible else command))


@contextlib.contextmanager
def small_disk(size):
    with tempfile.TemporaryDirectory() as folder:
        subprocess.check_call(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder])
        try:
            yield Path(folder)
        finally:
            subprocess.check_call(["umount", folder])


def whole(folder, before=None):
    """The state of the files after a trouble: the checkpoint loads, and there are no scraps."""
    left = {path.name for path in folder.iterdir()} - {"filler"}
    assert left <= FILES, f"left behind: {left - FILES}"
    for name in left:
        torch.load(folder / name, weights_only=True)
    if before is not None:
        assert left >= before, f"lost: {before - left}"


def ends_like(folder, alone, what):
    model = fit(folder)
    assert same_state(model.state_dict(), alone.state_dict()), f"{what}: the run ends in other weights"
    assert {path.name for path in folder.iterdir()} - {"filler"} == FILES


def refused(numbers, folder, **options):
    """Whether a run was stopped by an OSError, which must be one of `numbers` and name a file."""
    try:
        fit(folder, **options)
    except OSError as error:
        assert error.errno in numbers, f"errno {error.errno}: {error}"
        assert str(error.filename or "") and error.strerror, f"a message that names nothing: {error}"
        return True
    return False


def full(ledger, alone, chance):
    with ledger.row("disk full in mid-run, at a random byte") as row, small_disk("64m") as folder:
        stopped = 0
        for k in range(CASES):
            with row.case(f"case {k}"):
                [path.unlink() for path in folder.iterdir()]
                first = chance.randrange(EPOCHS - 1)
                fit(folder, callback=lambda info, first=first: info.epoch < first)
                before = {path.name for path in folder.iterdir()}
                room = os.statvfs(folder)
                free = room.f_bavail * room.f_frsize
                # the files of an epoch are some fourteen megabytes
                with open(folder / "filler", "wb") as filler:
                    filler.truncate(0)
                    os.posix_fallocate(filler.fileno(), 0, max(1, free - chance.randrange(16 * MEGABYTE)))
                stopped += refused([errno.ENOSPC], folder)
                whole(folder, before)
                (folder / "filler").unlink()
                ends_like(folder, alone, f"case {k}")
        row.remark = f"{stopped} stopped by it, the others had room enough"


def read_only(ledger, alone, chance):
    """The same folder mounted over itself: the lock, open for writing, would keep the disk from being remounted."""
    with ledger.row("folder made read-only in mid-run") as row, small_disk("64m") as folder:
        for k in range(max(3, CASES // 4)):
            with row.case(f"case {k}"):
                [path.unlink() for path in folder.iterdir()]
                at = chance.randrange(EPOCHS - 1)

                def callback(info, at=at):
                    if info.epoch == at:
                        subprocess.check_call(["mount", "--bind", folder, folder])
                        subprocess.check_call(["mount", "-o", "remount,bind,ro", folder])

                try:
                    assert refused([errno.EROFS], folder, callback=callback), "it went through"
                    assert refused([errno.EROFS], folder), "it began again"
                finally:
                    subprocess.check_call(["umount", folder])
                with contextlib.suppress(FileNotFoundError):
                    (folder / f"{NAME}.lock").unlink()  # nobody could remove it there; nobody holds it either
                whole(folder, {f"{NAME}.ckpt"})
                ends_like(folder, alone, f"case {k}")


def file_limit(ledger, alone, chance):
    """A quota of the file's size: the write stops in the middle of a file, wherever that is."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with ledger.row("a write that stops in the middle of a file (RLIMIT_FSIZE)") as row:
        stopped = 0
        for k in range(CASES):
            with row.case(f"case {k}"), tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch)
                first = chance.randrange(EPOCHS - 1)
                fit(folder, callback=lambda info, first=first: info.epoch < first)
                before = {path.name for path in folder.iterdir()}
                most = (folder / f"{NAME}.ckpt").stat().st_size
                resource.setrlimit(
                    resource.RLIMIT_FSIZE, (chance.randrange(int(1.05 * most)), resource.RLIM_INFINITY)
                )
                try:
                    stopped += refused([errno.EFBIG], folder)
                finally:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
                whole(folder, before)
                ends_like(folder, alone, f"case {k}")
        row.remark = f"{stopped} stopped by it"


def vanishing(ledger, alone, chance):
    with ledger.row("folder removed, moved away or replaced by a file in mid-run") as row:
        for k in range(max(6, CASES // 2)):
            with row.case(f"case {k}"), tempfile.TemporaryDirectory() as scratch:
                folder, moved = Path(scratch) / "weights", Path(scratch) / "moved"
                at, how = chance.randrange(EPOCHS - 1), ("removed", "moved", "replaced")[k % 3]

                def callback(info, at=at, how=how, folder=folder, moved=moved):
                    if info.epoch == at:
                        shutil.rmtree(folder) if how == "removed" else folder.rename(moved)
                        if how == "replaced":
                            folder.write_text("in the way")

                kinds = errno.ENOENT, errno.ENOTDIR
                assert refused(kinds, folder, callback=callback), "it went on without a folder"
                if how == "removed":
                    ends_like(folder, alone, f"case {k}: from the beginning")
                else:
                    with contextlib.suppress(FileNotFoundError):
                        (moved / f"{NAME}.lock").unlink()  # it moved away with the folder
                    whole(moved, {f"{NAME}.ckpt"})
                    ends_like(moved, alone, f"case {k}")


def clocks(ledger, alone, chance):
    """Clocks that stand still, run back or jump: files from the future or from 1980, time.time() anywhere."""
    real = time.time
    with ledger.row("clock jumps (time.time, and the files' times)") as row:
        for k in range(CASES):
            with row.case(f"case {k}"), tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch)
                time.time = lambda: chance.choice([0.0, -1.0, 2**33, real(), real() - 10**6])
                try:
                    fit(folder, callback=lambda info: info.epoch < 1)
                    for path in folder.iterdir():
                        os.utime(path, (chance.randrange(2**33),) * 2)
                    ends_like(folder, alone, f"case {k}")
                finally:
                    time.time = real


def main():
    disks = mounted()
    torch.set_num_threads(1)
    chance, ledger = random.Random(7), Ledger()
    with tempfile.TemporaryDirectory() as scratch:
        alone = fit(Path(scratch))
    if disks:
        full(ledger, alone, chance)
        read_only(ledger, alone, chance)
    else:
        print("no mount namespace can be made here: full and read-only disks are left out", flush=True)
    for part in (file_limit, vanishing, clocks):
        part(ledger, alone, chance)
    ledger.close()


if __name__ == "__main__":
    main()
