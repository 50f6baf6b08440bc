"""The benchmark of restoration: six tasks, every method, images that training has not seen."""

from __future__ import annotations

from pathlib import Path

import click
import torch

from benchmarks.harness.report import machine
from benchmarks.inverse import pictures, prior, speed
from benchmarks.inverse.methods import METHODS, VARIANTS, fits
from benchmarks.inverse.report import Results
from benchmarks.inverse.score import with_prior, without_prior
from benchmarks.inverse.tasks import TASKS

WITHOUT = ("fbp", "tv")
PATH = click.Path(path_type=Path)


@click.command(
    epilog="Example: python -m benchmarks.inverse --task ct20 --method daps --images 4 --samples 8"
)
@click.option(
    "--out",
    type=PATH,
    default="bench-output/inverse",
    show_default=True,
    help="Folder for tables and prior; what it holds already is not measured again.",
)
@click.option(
    "--work",
    type=click.Choice(["quality", "speed"]),
    default="quality",
    show_default=True,
    help="Restore images, or time the projector and guidance.",
)
@click.option(
    "--task", "tasks", multiple=True, type=click.Choice(list(TASKS)), help="All of them by default."
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    type=click.Choice([*WITHOUT, *METHODS, *VARIANTS]),
    help=f"By default all but the variants {', '.join(repr(name) for name in VARIANTS)}.",
)
@click.option("--images", "count", default=13, show_default=True, help="Images of the test.")
@click.option("--samples", default=16, show_default=True, help="Draws of each.")
@click.option("--updates", default=3000, show_default=True, help="Updates that the prior is trained for.")
@click.option(
    "--set", "changes", multiple=True, help="Change how the prior is trained: objective=flow, for one."
)
@click.option("--slices", type=PATH, help="Real slices, in train/ and test/, instead of phantoms.")
@click.option("--again", is_flag=True, help="Measure anew what is in the folder.")
@click.option(
    "--device", default="cpu", show_default=True, help="Where the prior is trained and the methods draw."
)
@click.option("--rounds", default=5, show_default=True, help="Timed rounds of --work speed.")
def main(
    out: Path,
    work: str,
    tasks: tuple[str, ...],
    methods: tuple[str, ...],
    count: int,
    samples: int,
    updates: int,
    changes: tuple[str, ...],
    slices: Path | None,
    again: bool,
    device: str,
    rounds: int,
) -> None:
    """Restore images by every method, and tell how good and how well calibrated each is, and what it costs."""
    out.mkdir(parents=True, exist_ok=True)
    if work == "speed":
        text = speed.table(rounds)
        (out / "speed.md").write_text(f"{machine('cpu')}\n\n{text}", encoding="utf-8")
        click.echo(text)
        return
    images = prior.real(slices, count) if slices else prior.drawn(count)
    truth = images.test
    denoiser = prior.trained(images, updates, out, device, changes)
    about = {"machine": machine(device), "torch": torch.__version__, "updates of the prior": updates}
    source = "-".join([images.name, *changes])
    results = Results(out, source, about)
    for task in tasks or TASKS:
        for name in methods or (*WITHOUT, *METHODS):
            if not fits(name, task) or (not again and results.has(task, name, len(truth), samples)):
                continue
            click.echo(f"{task}, {name}")
            if name in WITHOUT:
                results.add(without_prior(task, name, truth))
                continue
            row, found = with_prior(task, name, truth, denoiser, samples)
            results.add(row)
            tv = results.rows.get((task, "tv"))
            if name == "daps" and tv is not None and tv.weight is not None:
                pictures.keep(out / f"{source}-pictures", task, truth, found, tv.weight)
    results.write()
    pictures.draw(out / f"{source}-pictures", out / f"{source}-restored.png")
    click.echo(results.table())
    click.echo(f"Tables, raw numbers and the plot are in {out}")


if __name__ == "__main__":
    main()
