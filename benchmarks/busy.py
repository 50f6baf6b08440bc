"""A busy neighbour: a forward pass and a training step alone, and beside processes that want a core each.

`python -m benchmarks.busy` prints the table. Everybody works in turn and in a process of their own, so that nobody's
threads wait in another's time.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

import click
import rust_diffusion as rd
import torch
from tqdm.auto import tqdm

from benchmarks.harness import report
from benchmarks.harness.measure import Timing
from benchmarks.peers import course
from benchmarks.peers.contender import COURSE, Contender
from benchmarks.peers.ours import Ours
from benchmarks.peers.plain import Plain

#: Network, size of the images and of the batch.
CONFIGURATIONS: dict[str, tuple[dict[str, Any], int, int]] = {
    "course, 8 x 64 x 64": (COURSE, 64, 8),
    "demonstration, 16 x 48 x 48": (rd.recipe("demo", size=48).network, 48, 16),
}
WHO = ("rust_diffusion fp32", "rust_diffusion bf16", "course, eager")
WORK = ("forward", "training step")
T = 400
#: Seconds that a turn takes about: several slices of time that the system gives to a neighbour.
TURN = 1.0
#: Seconds until threads that wait for more have gone to sleep.
REST = 0.1


def _contender(who: str, configuration: str) -> Contender:
    network, size, _ = CONFIGURATIONS[configuration]
    if who == "course, eager":
        return Plain(who, course.DiffusionUNet(**{**COURSE, **network}), "cpu", size)
    return Ours("cpu", who.rsplit(" ", 1)[1], size, **network)


def _serve(who: str, configuration: str, orders: Connection) -> None:
    """Work when told to, a number of times, and tell the seconds of each."""
    _, size, batch = CONFIGURATIONS[configuration]
    contender = _contender(who, configuration)
    images, t = torch.randn(batch, 1, size, size).clamp(-1, 1), torch.randint(0, T, (batch,))
    betas = rd.cosine_beta_schedule(T)

    def forward() -> float:
        begin = time.perf_counter()
        contender.predict(images, t)
        return time.perf_counter() - begin

    while (order := orders.recv()) is not None:
        work, times = order
        if work == "forward":
            orders.send([forward() for _ in range(times)])
        else:
            orders.send(contender.train(images, betas, times))


class Worker:
    """One contender in its process."""

    def __init__(self, who: str, configuration: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._orders, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(
            target=_serve, args=(who, configuration, theirs), daemon=True
        )
        self._process.start()

    def seconds(self, work: str, times: int) -> list[float]:
        """Let it work so many times."""
        self._orders.send((work, times))
        found: list[float] = self._orders.recv()
        return found

    def end(self) -> None:
        """Send it home."""
        self._orders.send(None)
        self._process.join()


def _spin() -> None:
    while True:
        pass


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """So many processes that are never done."""
    context = multiprocessing.get_context("spawn")
    busy = [context.Process(target=_spin, daemon=True) for _ in range(count)]
    for process in busy:
        process.start()
    time.sleep(1.0 if busy else 0.0)  # they import what this file does
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.join()


def measure(configuration: str, work: str, counts: list[int], rounds: int) -> dict[tuple[str, int], Timing]:
    """Time everybody beside each number of neighbours, in turn."""
    workers = {who: Worker(who, configuration) for who in WHO}
    # how often fits into a turn; and what is only done the first time is done
    times = {who: _times(worker, work) for who, worker in workers.items()}
    timings = {(who, count): Timing() for count in counts for who in WHO}
    bar = tqdm(total=rounds * len(timings), desc=f"{configuration}: {work}", unit="turn", leave=False)
    for _ in range(rounds):
        for count in counts:
            with neighbours(count):
                for who, worker in workers.items():
                    time.sleep(REST)
                    timings[who, count].seconds += worker.seconds(work, times[who])
                    bar.update()
    bar.close()
    for worker in workers.values():
        worker.end()
    return timings


def _times(worker: Worker, work: str) -> int:
    worker.seconds(work, 2)
    return max(2, round(TURN / statistics.median(worker.seconds(work, 3))))


@click.command(epilog="Example: python -m benchmarks.busy --rounds 5")
@click.option("--rounds", default=5, show_default=True, help="Timed rounds; everybody runs once in each.")
@click.option(
    "--most", default=2, show_default=True, type=click.IntRange(0), help="Neighbours, at most this many."
)
def main(rounds: int, most: int) -> None:
    """Measure a forward pass and a training step beside busy processes, against the course module."""
    counts = list(range(most + 1))
    click.echo(f"{report.machine('cpu')}, {os.cpu_count()} cores, torch {torch.__version__}\n")
    beside = "".join(f" beside {count}, s | times as long |" for count in counts[1:])
    click.echo(f"| network | | | alone, s |{beside}\n|---|---|---|---|{'---|---|' * most}")
    for configuration in CONFIGURATIONS:
        for work in WORK:
            timings = measure(configuration, work, counts, rounds)
            for who in WHO:
                alone, *others = (timings[who, count].median for count in counts)
                row = "".join(f" {median:.3f} | {median / alone:.2f} |" for median in others)
                click.echo(f"| {configuration} | {work} | {who} | {alone:.3f} |{row}")


if __name__ == "__main__":
    main()
