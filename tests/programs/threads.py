"""Threads, forks, spawned processes and event loops around one model: threads.py [ROUNDS].

Each case must give the right numbers or a clear error. A deadlock ends the program, with every thread's stack.
"""

import asyncio
import concurrent.futures
import multiprocessing
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

import rust_diffusion as rd
from ledger import Ledger
from tools import PROGRAMS, TINY, child_environment, same_state, slices

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 20
BETAS = rd.cosine_beta_schedule(20)
ALPHA_BARS = torch.cumprod(1 - BETAS, 0)
OPTIONS = dict(betas=BETAS, batch_size=4, device="cpu", precision="fp32", progress=False)


class Items(Dataset):
    """Images that are made in the workers, with the package's own functions."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return rd.phantoms(1, 16, seed=index, threads=1, progress=False)[0]


def network(seed=0):
    torch.manual_seed(seed)
    return rd.DiffusionUNet(**TINY).eval()


def draw(model, seed):
    return rd.ddim_sample(model, 2, (1, 8, 8), ALPHA_BARS, "cpu", 4, seed=seed, progress=False)


def draw_in_a_process(seed):
    torch.set_num_threads(1)
    return draw(network(), seed)


def threads_on_one_model(ledger):
    model, count = network(), 6
    expected = [draw(model, seed) for seed in range(count)]
    with ledger.row("6 threads sampling from one model, against one after the other") as row:
        for k in range(ROUNDS):
            with concurrent.futures.ThreadPoolExecutor(count) as pool:
                drawn = list(pool.map(lambda seed: draw(model, seed), range(count)))
            for a, b in zip(drawn, expected, strict=True):
                row.check(torch.equal(a, b), f"round {k}: other samples")


def threads_with_gradients(ledger):
    """Forward and backward of one model in several threads, each for its own input."""
    model, t = network(), torch.tensor([3, 9])
    inputs = [torch.randn(2, 1, 8, 8) for _ in range(4)]

    def gradient(x):
        x = x.clone().requires_grad_()
        [found] = torch.autograd.grad(model(x, t).square().sum(), [x])
        return found

    expected = [gradient(x) for x in inputs]
    with ledger.row("4 threads with gradients to the input of one model") as row:
        for k in range(ROUNDS):
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                for a, b in zip(pool.map(gradient, inputs), expected, strict=True):
                    row.check(torch.equal(a, b), f"round {k}: other gradients")


def training_beside_sampling(ledger):
    """Training in one thread, sampling from its averaged weights in another, all the time."""

    def train(shown):
        model = rd.DiffusionUNet(**TINY)
        rd.train(
            model,
            slices(24),
            epochs=4,
            seed=3,
            callback=lambda info: shown.append(info.ema.shadow),
            **OPTIONS,
        )
        return model

    torch.manual_seed(1)
    alone = train([])
    with ledger.row(
        "training in one thread, another samples from its EMA; the run's bits against one alone"
    ) as row:
        for k in range(ROUNDS):
            shown, drawn, running = [], [], threading.Event()

            def sample(shown=shown, drawn=drawn, running=running):
                while not running.is_set():
                    if shown:
                        drawn.append(draw(shown[-1], 0))

            thread = threading.Thread(target=sample)
            thread.start()
            torch.manual_seed(1)
            try:
                model = train(shown)
            finally:
                running.set()
                thread.join()
            row.check(same_state(model.state_dict(), alone.state_dict()), f"round {k}: another run")
            row.check(
                drawn and all(x.isfinite().all() for x in drawn), f"round {k}: no samples, or not finite"
            )


def loader_workers(ledger):
    """Workers made by fork after the engine has been used, and by spawn."""
    expected = None
    for method in ("fork", "spawn", "forkserver"):
        rounds = ROUNDS if method == "fork" else max(1, ROUNDS // 10)
        with ledger.row(f"training from a DataLoader with two workers ({method})") as row:
            for k in range(rounds):
                model = network()
                draw(model, 0)  # the engine's threads are there when the workers are made
                loader = DataLoader(Items(), batch_size=4, num_workers=2, multiprocessing_context=method)
                rd.train(model, loader, epochs=1, seed=0, **OPTIONS)
                expected = model.state_dict() if expected is None else expected
                row.check(same_state(model.state_dict(), expected), f"round {k}: other weights")


def processes(ledger):
    expected = draw(network(), 5)
    for method in ("fork", "spawn"):
        with ledger.row(f"sampling in a child process ({method}) after sampling in its parent") as row:
            context = multiprocessing.get_context(method)
            for k in range(ROUNDS if method == "fork" else max(1, ROUNDS // 10)):
                with context.Pool(1) as pool:
                    drawn = pool.apply_async(draw_in_a_process, (5,)).get(timeout=120)
                row.check(torch.allclose(drawn, expected, atol=1e-5), f"round {k}: other samples")


def event_loop(ledger):
    model = network()
    expected = [draw(model, seed) for seed in range(4)]

    async def together():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.001)

        ticking = asyncio.create_task(tick())
        drawn = await asyncio.wait_for(
            asyncio.gather(*(asyncio.to_thread(draw, model, seed) for seed in range(4))), timeout=120
        )
        ticking.cancel()
        return drawn, ticks

    with ledger.row("asyncio.to_thread: four samplings at once, the loop goes on") as row:
        for k in range(ROUNDS):
            drawn, ticks = asyncio.run(together())
            good = all(torch.equal(a, b) for a, b in zip(drawn, expected, strict=True))
            row.check(good and ticks > 1, f"round {k}: {ticks} ticks")


def one_folder(ledger):
    """Several runs on the same files at once: one trains, the others are told so, and the files are good."""
    with ledger.row("4 threads training on one weights folder: one at a time, the others refused") as row:
        for k in range(ROUNDS):
            with tempfile.TemporaryDirectory() as folder:
                start = threading.Barrier(4)

                def run(_, start=start, folder=folder):
                    model = rd.DiffusionUNet(**TINY)
                    start.wait()
                    try:
                        rd.train(model, slices(4), epochs=1, weights_dir=folder, **OPTIONS)
                    except RuntimeError as error:
                        return str(error)
                    return "done"

                with concurrent.futures.ThreadPoolExecutor(4) as pool:
                    said = list(pool.map(run, range(4)))
                good = "done" in said and all(s == "done" or "another run" in s for s in said)
                left = sorted(path.name for path in Path(folder).iterdir())
                row.check(good and len(left) == 3, f"round {k}: {said}, {left}")

    with ledger.row(
        "a second process on a folder in use is refused; after a kill its lock is taken over"
    ) as row:
        for k in range(max(1, ROUNDS // 10)):
            with tempfile.TemporaryDirectory() as folder:
                first = subprocess.Popen(
                    [sys.executable, PROGRAMS / "train.py", folder, "1000", "0.1"],
                    stdout=subprocess.PIPE,
                    text=True,
                    env=child_environment(),
                )
                any(line.startswith("step 5") for line in first.stdout)
                refused = ""
                try:
                    rd.train(rd.DiffusionUNet(**TINY), slices(4), epochs=1, weights_dir=folder, **OPTIONS)
                except RuntimeError as error:
                    refused = str(error)
                first.send_signal(signal.SIGKILL)
                first.communicate()
                row.check(f"process {first.pid}" in refused, f"round {k}: {refused!r}")
                began = time.monotonic()
                rd.train(
                    *(rd.DiffusionUNet(**{**TINY, "dropout": 0.1}), slices(12)),
                    **{**OPTIONS, "epochs": 2, "weights_dir": folder, "force_restart": True},
                )
                row.check(time.monotonic() - began < 60, f"round {k}: the stale lock was waited for")


def main():
    ledger = Ledger()
    threads_on_one_model(ledger)
    threads_with_gradients(ledger)
    training_beside_sampling(ledger)
    loader_workers(ledger)
    processes(ledger)
    event_loop(ledger)
    one_folder(ledger)
    ledger.close()


if __name__ == "__main__":
    main()
