"""A contender in a process of its own, which works when it is told to; and its neighbours, which never stop.

Not in the program's own file: a new process does not read that one.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

import rust_diffusion as rd
import torch

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
    time.sleep(3.0 if busy else 0.0)  # they import what this file does
    try:
        if not all(process.is_alive() for process in busy):
            raise RuntimeError("a busy process did not start")
        yield
    finally:
        for process in busy:
            process.kill()
            process.join()
