"""A busy neighbour: a forward pass and a training step alone, and beside processes that want a core each.

`python -m benchmarks.busy` prints the table. Everybody works in turn and in a process of their own, so that nobody's
threads wait in another's time.
"""

from __future__ import annotations

import os
import statistics
import time

import click
import torch
from tqdm.auto import tqdm

from benchmarks.busy.worker import CONFIGURATIONS, WHO, WORK, Worker, neighbours
from benchmarks.harness import report
from benchmarks.harness.measure import Timing

#: Seconds that a turn takes about: several slices of time that the system gives to a neighbour.
TURN = 1.0
#: Seconds until threads that wait for more have gone to sleep.
REST = 0.1


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
