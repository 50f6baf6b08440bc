"""The measure of a recipe: train for some minutes, draw 64 images, compare them with images held out.

`python -m benchmarks.quality --minutes 3` is one command for one budget; results add up in one table.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import click
import rust_diffusion as rd
import torch
from PIL import Image
from rust_diffusion.view.pictures import grid

from benchmarks.harness import report
from benchmarks.harness.changes import parsed
from benchmarks.quality import rows
from benchmarks.quality.data import Images, read
from benchmarks.quality.measure import Trained, measure
from benchmarks.quality.table import Records, table

COURSE, MINUTES = "course, engine", "minutes"
ROWS = (rows.EAGER, COURSE, MINUTES)
BUDGETS = (3.0, 10.0, 30.0, 60.0)
SAMPLES = 64


@click.command(
    epilog="Example: python -m benchmarks.quality --minutes 3 --row minutes --set base_ch=24 --updates 700"
)
@click.option(
    "--out", default="bench-output/quality", show_default=True, help="Folder of table, numbers, pictures."
)
@click.option(
    "--minutes", multiple=True, type=float, default=BUDGETS, show_default=True, help="Time of training."
)
@click.option("--row", "chosen", multiple=True, type=click.Choice(ROWS), default=ROWS, help="All by default.")
@click.option("--slices", help="Folder or pattern of real slices, instead of phantoms.")
@click.option("--size", default=64, show_default=True, help="Height and width of the images.")
@click.option("--seed", "seeds", multiple=True, type=int, default=(0,), show_default=True)
@click.option("--samples", default=SAMPLES, show_default=True, help="Images drawn.")
@click.option("--updates", type=int, help="So many updates instead of as many as fit into the time.")
@click.option("--set", "changes", multiple=True, help="Change the recipe: learning_rate=1e-3, for one.")
@click.option(
    "--first-updates", type=int, help="So many updates before those of the recipe, changed by --first."
)
@click.option(
    "--first", multiple=True, help="Change those: batch_size=8, or size=32 for images averaged down."
)
@click.option("--threads", default=2, show_default=True)
@click.option(
    "--device",
    default="cpu",
    show_default=True,
    help="With --updates: what two cores would have learnt, in less time.",
)
def main(
    out: str,
    minutes: tuple[float, ...],
    chosen: tuple[str, ...],
    slices: str | None,
    size: int,
    seeds: tuple[int, ...],
    samples: int,
    updates: int | None,
    changes: tuple[str, ...],
    first_updates: int | None,
    first: tuple[str, ...],
    threads: int,
    device: str,
) -> None:
    """Measure what recipes draw after a time of training."""
    if (first_updates is None) != (not first):
        raise click.UsageError("--first-updates and --first belong together")
    begun = None if first_updates is None else _first(first_updates, first)
    said = (*changes, *(f"first {change}" for change in first))
    if first_updates is not None:
        said += (f"first {first_updates} updates",)
    torch.set_num_threads(threads)
    images = read(slices, size)
    records = Records(Path(out))
    for budget in minutes:
        for row in chosen:
            for seed in seeds:
                trained = _train(row, budget, images, updates, changes, seed, device, begun)
                found = measure(trained, images, samples, seed)
                name = _name(row, said, updates, samples, device)
                drawn = found.pop("samples")
                about = {"data": f"{images.name}, {size}", "minutes": budget, "recipe": name, "seed": seed}
                records.add({**about, **found, "machine": report.machine(device)})
                picture = Image.fromarray(grid(drawn[:16]))
                picture.save(
                    Path(out) / f"{images.name}-{size}-{budget:g}-{name.replace(' ', '')}-{seed}.png"
                )
                click.echo(f"{time.strftime('%H:%M:%S')} {about} {_short(found)}")
    click.echo(table(records.rows()))


def _train(
    row: str,
    minutes: float,
    images: Images,
    updates: int | None,
    changes: tuple[str, ...],
    seed: int,
    device: str,
    first: rows.First | None,
) -> Trained:
    if row == rows.EAGER:
        return rows.eager(rd.recipe("course"), images.train, minutes, updates, seed, device)
    recipe = (
        rows.course(minutes) if row == COURSE else rd.recipe(size=images.train.shape[-1], minutes=minutes)
    )
    for change in changes:
        _change(recipe, change)
    return rows.engine(recipe, images.train, updates, seed, device, first)


def _name(row: str, changes: tuple[str, ...], updates: int | None, samples: int, device: str) -> str:
    """What a row is called: all that it does otherwise than usual, so that no search takes the place of a measure."""
    said = [row]
    if row != rows.EAGER:  # which no change reaches
        said += changes
    if updates is not None:
        said.append(f"{updates} updates")
    if samples != SAMPLES:
        said.append(f"{samples} drawn")
    if device != "cpu":
        said.append(device)
    return ", ".join(said)


def _first(updates: int, changes: tuple[str, ...]) -> rows.First:
    said = dict(parsed(change) for change in changes)
    return rows.First(
        updates, {name: value for name, value in said.items() if name != "size"}, said.get("size")
    )


def _change(recipe: rd.Recipe, change: str) -> None:
    """Put ``name=value`` where a recipe has that name; what it has nowhere is for `train`."""
    name, value = parsed(change)
    if name in ("num_steps", "schedule"):
        setattr(recipe, name, value)
        return
    places = [part for part in (recipe.network, recipe.sampling) if name in part]
    (places or [recipe.training])[0][name] = value


def _short(found: dict[str, Any]) -> dict[str, Any]:
    return {k: round(v, 5) for k, v in found.items() if isinstance(v, (int, float)) and math.isfinite(v)}


if __name__ == "__main__":
    main()
