"""Does memory grow? memory.py [SHARE], of 1,000 training steps, 200 sampling runs, 10,000 forward calls, 500 failures.

The first third of each is for what is made once (pools, caches); from the second to the last neither the number of live
tensors may change nor the process' memory grow by more than ALLOWED. Of its memory the least value counts: what the
allocator has not given back yet comes and goes.
"""

import gc
import os
import sys
import weakref

import torch

import rust_diffusion as rd
from ledger import Ledger
from tools import TINY, slices

SHARE = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
#: What leaks in each call is far more than this after hundreds.
ALLOWED = 12 * 2**20

BETAS = rd.cosine_beta_schedule(20)
ALPHA_BARS = torch.cumprod(1 - BETAS, 0)


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def live_tensors():
    gc.collect()
    # not isinstance: it would ask lazy modules for their class
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def measure(ledger, what, times, once):
    """Call `once(k)` `times` times, as one row: the least memory seen in the last third against the second's."""
    third = max(10, -int(-times * SHARE // 3))
    with ledger.row(f"{what}: growth of memory") as count:
        least, tensors = [], []
        for part in range(3):
            seen = []
            for k in range(third):
                once(part * third + k)
                if k % max(1, third // 20) == 0:
                    seen.append(resident())
            least.append(min(seen))
            tensors.append(live_tensors())
        grown, more = least[2] - least[1], tensors[2] - tensors[1]
        count.tried = 3 * third
        count.remark = f"{grown / 2**20:+.1f} MB, {more:+d} tensors"
        if grown > ALLOWED or more > 0:
            count.lost = [count.remark]


def training(ledger):
    model, data = rd.DiffusionUNet(**{**TINY, "dropout": 0.1}), slices(40)
    options = dict(betas=BETAS, batch_size=4, device="cpu", progress=False)
    # ten steps a run
    measure(ledger, "training steps", 1000, lambda k: k % 10 or rd.train(model, data, epochs=1, **options))


def sampling(ledger):
    model = rd.DiffusionUNet(**TINY).eval()

    def once(k):
        rd.ddim_sample(model, 2, (1, 8, 8), ALPHA_BARS, "cpu", 3, seed=k, progress=False)

    measure(ledger, "sampling runs", 200, once)


def forward_calls(ledger):
    model, x, t = rd.DiffusionUNet(**TINY).eval(), torch.randn(2, 1, 8, 8), torch.tensor([0, 9])

    def once(k):
        if k % 2:
            model(x, t)  # recorded, and the record thrown away
        else:
            with torch.no_grad():
                model(x, t)

    measure(ledger, "forward calls", 10_000, once)


def failures(ledger):
    """Wrong arguments, callbacks that raise, interrupts inside a step: what was taken must be given back."""
    model, data = rd.DiffusionUNet(**TINY), slices(8)
    options = dict(betas=BETAS, batch_size=4, device="cpu", progress=False)

    class Stopping(torch.utils.data.Dataset):
        def __init__(self, error):
            self.error = error

        def __len__(self):
            return 8

        def __getitem__(self, index):
            if index == 5:
                raise self.error
            return data[index]

    def raising(error):
        def callback(_):
            raise error

        return callback

    calls = [
        lambda: model(torch.zeros(2, 1, 7, 8), torch.tensor([0, 1])),
        lambda: model(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1, 2])),
        lambda: rd.train(model, Stopping(KeyboardInterrupt()), epochs=1, **options),
        lambda: rd.train(model, Stopping(OSError("gone")), epochs=1, **options),
        lambda: rd.train(model, data, epochs=1, callback=raising(KeyboardInterrupt()), **options),
        lambda: rd.ddim_sample(
            model, 2, (1, 8, 8), ALPHA_BARS, "cpu", 3, progress=False, callback=raising(ValueError("no"))
        ),
        lambda: rd.ddim_sample(lambda x, t: x[:1], 2, (1, 8, 8), ALPHA_BARS, "cpu", 3, progress=False),
        lambda: rd.ddim_sample(
            lambda x, t: raising(KeyboardInterrupt())(x), 2, (1, 8, 8), ALPHA_BARS, "cpu", 3, progress=False
        ),
        lambda: rd.load_images([os.devnull], progress=False),
    ]

    def once(k):
        try:
            calls[k % len(calls)]()
        except (Exception, KeyboardInterrupt):
            return
        raise AssertionError(f"call {k % len(calls)} went through")

    measure(ledger, "failed and interrupted calls", 500, once)


def references(ledger):
    """What Python lets go of dies at once, and with it the storage of its tensors."""
    with ledger.row("models, averages, results and checkpoints die with their last reference") as count:
        for k in range(max(3, int(20 * SHARE))):
            model = rd.DiffusionUNet(**TINY)
            result = rd.train(
                model, slices(4), betas=BETAS, epochs=1, batch_size=4, device="cpu", progress=False
            )
            x = torch.randn(2, 1, 8, 8, requires_grad=True)
            out = model(x, torch.tensor([0, 1])).sum()
            out.backward()
            storage = model.init.weight.untyped_storage()
            things = (model, result.ema, result.ema.shadow, out, x, storage, next(model.parameters()))
            watched = [weakref.ref(thing) for thing in things]
            del model, result, out, x, things, storage
            gc.collect()
            for reference in watched:
                count.check(reference() is None, f"round {k}: a {type(reference()).__name__} lives on")


def main():
    torch.set_num_threads(1)
    ledger = Ledger()
    for part in (training, sampling, forward_calls, failures, references):
        part(ledger)
    ledger.close()


if __name__ == "__main__":
    main()
