"""The benchmark: this package beside its peers, same work, same process, in turn; a table and a plot."""

from __future__ import annotations

import importlib.util
import platform
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import rust_diffusion as rd
import torch
from tqdm.auto import tqdm

from benchmarks import scaling
from benchmarks.harness import report
from benchmarks.harness.files import generate
from benchmarks.harness.limit import limits, paces
from benchmarks.harness.measure import Timing, alternate, import_time, peak_memory, wait
from benchmarks.peers.contender import COURSE, Contender
from benchmarks.peers.contenders import contenders
from benchmarks.peers.floor import floor

ALL = ("forward", "train", "epoch", "ddim", "ddpm", "memory", "import", "scaling")
T = 400
DDIM_STEPS = 50
SAMPLES = 8
#: Steps before the timed ones: on a GPU, work is captured, where that is asked for, after the first few.
WARM_STEPS = 6
#: Files of an epoch; on a GPU as many as the course has.
FILES = {"cpu": 64, "cuda": 3306}


@click.command(epilog="Example: python -m benchmarks --work forward --work train --rounds 5")
@click.option(
    "--out", default="bench-output", show_default=True, help="Folder for table, plot and raw seconds."
)
@click.option("--work", multiple=True, type=click.Choice(ALL), help="What to measure; all of it by default.")
@click.option("--rounds", default=3, show_default=True, help="Timed rounds; everybody runs once in each.")
@click.option("--device", default=rd.get_device(), show_default=True)
@click.option("--size", default=64, show_default=True, help="Height and width of the images.")
@click.option(
    "--batch",
    default=None,
    type=int,
    help="Images of a forward pass or step [default: 8 on CPU, 32 on CUDA].",
)
@click.option(
    "--compile/--no-compile", "compiled", default=True, show_default=True, help="Include torch.compile."
)
def main(
    out: str, work: tuple[str, ...], rounds: int, device: str, size: int, batch: int | None, compiled: bool
) -> None:
    """Measure speed and memory against the course module, torch.compile of it and a hand-tuned version."""
    chosen = work or ALL
    batch = batch or (32 if device == "cuda" else 8)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    field = contenders(device, size, compiled=compiled)
    trainers = [contender for contender in field if contender.trains]
    betas = rd.cosine_beta_schedule(T)
    x = torch.randn(batch, COURSE["in_ch"], size, size, device=device)
    t = torch.randint(0, T, (batch,), device=device)

    about = {
        "machine": report.machine(device),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "rounds": rounds,
    }
    # Written after each piece of work: what is done is not lost if the rest fails.
    results = report.Results(folder, about)
    least = _limits(field, batch, size, chosen) if device == "cpu" else {}
    if "forward" in chosen:
        pieces: dict[str, Callable[[], Any]] = {c.name: _forward(c, x, t) for c in field}
        pieces["floor fp32"] = floor(device, batch, size, torch.float32)
        pieces["floor bf16"] = floor(device, batch, size, torch.bfloat16)
        timings = alternate(pieces, rounds, device, "forward")
        results.add_row(f"forward, batch {batch}", timings, least.get("forward"))
    if "train" in chosen:
        timings = _steps(trainers, x.clamp(-1, 1), betas, rounds, device)
        results.add_row(f"training step, batch {batch}", timings, least.get("train"))
    if "epoch" in chosen and importlib.util.find_spec("torchvision") is None:
        click.echo("The epoch from PNG files is left out: the course reads them with torchvision.")
    elif "epoch" in chosen:
        with tempfile.TemporaryDirectory() as scratch:
            count = FILES.get(device, FILES["cpu"])
            folder_of_files = generate(Path(scratch) / "files", count, 512, "RGBA")
            pieces = {c.name: _epoch(c, folder_of_files, betas, batch) for c in trainers}
            title = f"epoch from {count} PNG files, batch {batch}"
            results.add_row(title, alternate(pieces, 1, device, "epoch"))
    for name, title, steps in (("ddim", f"DDIM-{DDIM_STEPS}", DDIM_STEPS), ("ddpm", f"DDPM-{T}", None)):
        if name in chosen:
            for contender in field:
                contender.sample(SAMPLES, betas, WARM_STEPS)
            pieces = {c.name: _sampling(c, betas, steps) for c in field}
            # Long in themselves: one round says enough.
            timings = alternate(pieces, 1, device, title, warm=True)
            results.add_row(f"{title}, {SAMPLES} samples", timings, least.get(name))
    if "memory" in chosen and device == "cpu":
        results.memory = _memory(trainers, batch, size)
    if "import" in chosen:
        results.imports = {m: import_time(m, rounds).median for m in ("rust_diffusion", "torch")}
    if "scaling" in chosen:
        series = scaling.measure(rounds, device)
        results.scaling = scaling.table(series)
        scaling.plot(series, folder / "scaling.png")
    results.write()
    click.echo(results.table())
    click.echo(f"Table, plots and raw seconds are in {folder}")


def _limits(
    field: list[Contender], batch: int, size: int, chosen: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return the least seconds of each piece of work that is chosen, for those who compute the course's network."""
    known = [contender for contender in field if contender.is_course]
    if not {"forward", "train", "ddim", "ddpm"} & set(chosen):
        return {}
    found = paces()
    one, step = limits(batch, size, found), limits(batch, size, found, training=True)
    sample = limits(SAMPLES, size, found)
    calls = {"forward": (one, 1), "train": (step, 1), "ddim": (sample, DDIM_STEPS), "ddpm": (sample, T)}
    return {
        work: {c.name: times * least[c.precision] for c in known} for work, (least, times) in calls.items()
    }


def _forward(contender: Contender, x: torch.Tensor, t: torch.Tensor) -> Callable[[], Any]:
    return lambda: contender.predict(x, t)


def _sampling(contender: Contender, betas: torch.Tensor, steps: int | None) -> Callable[[], Any]:
    return lambda: contender.sample(SAMPLES, betas, steps)


def _epoch(contender: Contender, folder: Path, betas: torch.Tensor, batch: int) -> Callable[[], Any]:
    return lambda: contender.epoch(folder, betas, batch)


def _steps(
    field: list[Contender], images: torch.Tensor, betas: torch.Tensor, rounds: int, device: str
) -> dict[str, Timing]:
    """Some steps each in turn, of which the first half is not counted; nor is the first round."""
    turn = 4 * WARM_STEPS if device == "cuda" else 2
    timings = {c.name: Timing() for c in field}
    for index in tqdm(range(rounds + 1), desc="training step", unit="round", leave=False):
        for contender in field:
            wait(device)
            seconds = contender.train(images, betas, turn)
            if index > 0:
                timings[contender.name].seconds += seconds[turn // 2 :]
    return timings


def _memory(field: list[Contender], batch: int, size: int) -> dict[str, float]:
    plain = [c for c in field if "compile" not in c.name]
    bar = tqdm(plain, desc="peak memory", unit="process", leave=False)
    return {c.name: peak_memory(["benchmarks.memory", c.name, str(batch), str(size)]) for c in bar}


if __name__ == "__main__":
    main()
