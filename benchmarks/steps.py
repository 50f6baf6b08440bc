"""Steps against quality: what each sampler draws with few calls of the network, on the demonstration's model.

`python -m benchmarks.steps` trains that model, and another one for "flow", with T = 1000; draws with every sampler at
each number of calls; and writes table, plot and raw numbers. Models and numbers are kept in the output folder: a run
that was stopped goes on from them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import click
import rust_diffusion as rd
import torch
from rust_diffusion.cli.demo import Setting, small, train_network, usual
from rust_diffusion.view import measures
from torch import Tensor
from tqdm.auto import tqdm

from benchmarks.harness import report
from benchmarks.harness.held_out import held_out
from benchmarks.harness.steps_report import Compared, Row, plot, table

CALLS = (5, 8, 10, 15, 20, 30, 50, 100)
NOISE_SEED, DDPM_SEED = 0, 1
OURS, FLOW = "v", "flow"


@dataclass(frozen=True)
class Way:
    """One way to draw: a sampler, and how it is told to."""

    name: str
    sampler: str
    options: dict[str, Any] = field(default_factory=dict)
    #: It solves an ordinary differential equation: one starting noise gives one image.
    solves: bool = True

    @property
    def objective(self) -> str:
        """Which of the two networks it draws with."""
        return FLOW if self.sampler == "flow" else OURS

    def steps(self, calls: int) -> int:
        """How many steps make about so many calls: Heun's make two each, but for the last."""
        return (calls + 1) // 2 if "heun" in (self.sampler, self.options.get("solver")) else calls


WAYS = (
    Way("DDIM", "ddim"),
    # the same step as Euler's, in another variable
    Way("Euler, DPM-Solver++ 1", "dpmpp", {"order": 1}),
    Way("DPM-Solver++ 2", "dpmpp", {"order": 2}),
    Way("DPM-Solver++ 3", "dpmpp", {"order": 3}),
    Way("UniPC", "unipc"),
    Way("Heun", "heun"),
    Way("DDPM, strided (DDIM, eta = 1)", "ddim", {"eta": 1.0}, solves=False),
    Way("Euler, ancestral", "euler", {"ancestral": True}, solves=False),
    Way("DPM-Solver++ 2, SDE", "dpmpp", {"order": 2, "sde": True}, solves=False),
    Way("Flow, Euler", "flow"),
    Way("Flow, Heun", "flow", {"solver": "heun"}),
)
DDPM = Way("DDPM", "ddpm", solves=False)
#: With T steps, what the others of the same network are compared with.
SOLVED_BY = {OURS: WAYS[2], FLOW: WAYS[-1]}


def row_of(saved: dict[str, Any]) -> Row:
    """Read a row back."""
    found = {
        name: Compared(*(measures.Discrepancy(**saved[name][what]) for what in ("images", "patches")))
        for name in ("held_out", "ddpm")
    }
    return Row(saved["way"], saved["calls"], saved["distance"], **found)


@click.command(epilog="Example: python -m benchmarks.steps --samples 64")
@click.option("--out", default="steps-output", show_default=True, help="Folder for model, table and plot.")
@click.option("--samples", default=64, show_default=True, help="Images drawn each time.")
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(["fp32", "bf16"]))
@click.option("--num-steps", default=1000, show_default=True, help="T, which DDPM's calls are as many as.")
@click.option("--quick", is_flag=True, help="Seconds instead of minutes: tries the program only.")
def main(out: str, samples: int, precision: str, num_steps: int, quick: bool) -> None:
    """Draw with every sampler at each number of network calls, and compare with held-out images and with DDPM."""
    setting, folder = (small(), Path(out) / "quick") if quick else (usual(), Path(out))
    if not quick:
        setting.recipe.num_steps = num_steps
    models = {objective: trained(setting, objective, folder) for objective in (OURS, FLOW)}
    counts = [calls for calls in CALLS if calls < setting.recipe.num_steps]
    about = (
        f"{samples} images of {setting.size} x {setting.size} each, T = {setting.recipe.num_steps}, {precision}; "
        f"{report.machine('cpu')}, torch {torch.__version__}"
    )
    kept = Kept(folder, about)
    draw = Drawing(models, (samples, 1, setting.size, setting.size), precision)
    rows = measured(draw, held_out(2 * samples, setting.size), counts, kept)
    (folder / "table.md").write_text(f"{about}\n\n{table(rows)}", encoding="utf-8")
    plot(rows, folder / "steps.png")
    click.echo(f"{about}\n\n{table(rows)}")
    click.echo(f"Table, plot and raw numbers are in {folder}")


def trained(setting: Setting, objective: str, folder: Path) -> Any:
    """Return the demonstration's denoiser for an objective; one that an earlier run left in `folder` is taken over."""
    torch.manual_seed(0)
    setting.recipe.training |= {"objective": objective, "time_sampling": "uniform"}
    data = rd.phantoms(setting.images, size=setting.size, seed=0)
    model = rd.DiffusionUNet(**setting.recipe.network)
    result = train_network(setting.recipe, model, data, 0, folder / objective, restart=False)
    return result.ema.shadow


class Drawing:
    """The models, by objective, drawn from with one start noise."""

    def __init__(self, models: dict[str, Any], shape: tuple[int, ...], precision: str) -> None:
        self.models, self.shape = models, shape
        self.options = {"precision": precision, "progress": False}
        self.total = len(models[OURS].betas)

    def noise(self, seed: int) -> Tensor:
        """Return start noise."""
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(seed))

    def __call__(self, way: Way, start: int = NOISE_SEED, **steps: int) -> Tensor:
        """Draw from the start noise of a seed."""
        torch.manual_seed(start + 1)  # of the noise that is drawn on the way
        how = {"x_T": self.noise(start), **self.options, **way.options, **steps}
        return self.models[way.objective].sample(self.shape[0], way.sampler, **how)


class Kept:
    """What is done, in files: a run that was stopped need not do it again."""

    def __init__(self, folder: Path, about: str) -> None:
        self.path, self.about = folder / "rows.json", about
        self.rows: dict[tuple[str, int], Row] = {}
        known = json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else {}
        if known.get("about") == about:
            self.rows = {(row["way"], row["calls"]): row_of(row) for row in known["rows"]}

    def images(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """Return a set of images, drawn if it is not there yet."""
        path = self.path.with_name(f"{name}.pt")
        known = torch.load(path, weights_only=True) if path.is_file() else {}
        if known.get("about") != self.about:
            known = {"about": self.about, "images": make()}
            torch.save(known, path)
        images: Tensor = known["images"]
        return images

    def get(self, way: str, calls: int, make: Callable[[], Row]) -> Row:
        """Return a row, made if it is not there yet."""
        if (way, calls) not in self.rows:
            self.rows[way, calls] = make()
            content = {"about": self.about, "rows": [asdict(row) for row in self.rows.values()]}
            self.path.write_text(json.dumps(content, indent=1), encoding="utf-8")
        return self.rows[way, calls]


def measured(draw: Drawing, real: Tensor, counts: list[int], kept: Kept) -> list[Row]:
    """Draw in every way from the same start noise; and twice with DDPM, once to be compared with."""
    solved = {
        objective: kept.images(f"solved-{objective}", partial(draw, way, sample_steps=way.steps(draw.total)))
        for objective, way in SOLVED_BY.items()
    }
    reference = kept.images("ddpm", partial(draw, DDPM, start=DDPM_SEED))

    def row(way: Way, calls: int, **steps: int) -> Row:
        images = draw(way, **steps)
        distance = (images - solved[way.objective]).square().mean().sqrt().item() if way.solves else None
        return Row(way.name, calls, distance, compared(images, real), compared(images, reference))

    rows = [kept.get(DDPM.name, draw.total, lambda: row(DDPM, draw.total))]
    work = [(way, calls) for calls in counts for way in WAYS]
    for way, calls in tqdm(work, desc="steps", unit="set", leave=False):
        make = partial(row, way, calls, sample_steps=way.steps(calls))
        rows.append(kept.get(way.name, calls, make))
    return rows


def compared(images: Tensor, others: Tensor) -> Compared:
    """What `compare_sets` says of two sets, without the searches that it makes beside."""
    generator = torch.Generator().manual_seed(0)
    raw = measures.discrepancy(images.flatten(1), others.flatten(1), generator)
    features = measures.patch_features(images, others, generator)
    return Compared(raw, measures.discrepancy(*features, generator))


if __name__ == "__main__":
    main()
