"""`rust-diffusion demo`: a small denoiser trained on phantoms for some minutes, and what it draws."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from torch import Tensor

from rust_diffusion.cli import outputs
from rust_diffusion.cli.main import command, on_terminal
from rust_diffusion.cli.options import PATH
from rust_diffusion.data.phantoms import phantoms
from rust_diffusion.files import atomic
from rust_diffusion.model.unet import DiffusionUNet
from rust_diffusion.training.plan import Recipe, recipe
from rust_diffusion.training.result import TrainResult
from rust_diffusion.training.train import train
from rust_diffusion.view.pictures import grid

#: How the samplers of the demonstration are called in print.
_TITLES = {"ddpm": "DDPM", "dpmpp": "DPM-Solver++"}


@dataclass
class Setting:
    """The demonstration's size."""

    images: int
    size: int
    samples: int
    recipe: Recipe


def usual() -> Setting:
    """What the demonstration does in minutes."""
    return Setting(images=1024, size=48, samples=16, recipe=recipe("demo", size=48))


def small() -> Setting:
    """Something small and useless, within seconds."""
    chosen = recipe("demo", size=16)
    chosen.network |= {"base_ch": 8, "attn_levels": ()}
    chosen.training["epochs"] = 2
    chosen.num_steps, chosen.sampling["sample_steps"] = 20, 5
    return Setting(images=32, size=16, samples=4, recipe=chosen)


@command("""
    rust-diffusion demo
    rust-diffusion demo --out my-demo --seed 1
""")
@click.option("--out", type=PATH, default="demo-output", show_default=True, help="Folder.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of data, training and sampling.")
@click.option("--quick", is_flag=True, help="Seconds instead of minutes: tries the installation only.")
def demo(out: Path, seed: int, quick: bool) -> None:
    """Train a small denoiser on phantoms for some minutes and draw slices with it."""
    setting = small() if quick else usual()
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    data = phantoms(setting.images, size=setting.size, seed=seed)
    model = DiffusionUNet(**setting.recipe.network)
    parameters = sum(p.numel() for p in model.parameters())
    click.echo(
        f"Training {parameters / 1e6:.2f}M parameters on {setting.images} phantoms of {setting.size} x "
        f"{setting.size}, on {torch.get_num_threads()} threads.\n{setting.recipe}"
    )
    seconds: dict[str, float] = {}
    with _timed("training", seconds):
        result = train_network(setting.recipe, model, data, seed, out, restart=True)
    denoiser = result.ema.shadow
    drawn = {}
    for options in ({"sampler": "ddpm"}, setting.recipe.sampling):
        name = options["sampler"]
        with _timed(name, seconds):
            drawn[name] = denoiser.sample(setting.samples, **options, seed=seed, progress=on_terminal())
    _leave_pictures(out, data, drawn)
    _leave_curve(out / "loss.png", result.history)
    denoiser.save_pretrained(out / "pretrained")
    with atomic.replacing(out / "report.md") as file:
        file.write(_report(setting, parameters, seconds, result).encode())
    click.echo(
        f"Done. Pictures, loss curve and weights are in {out}/; {out / 'report.md'} tells what is what."
    )


@contextlib.contextmanager
def _timed(name: str, seconds: dict[str, float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


def train_network(
    recipe: Recipe, model: DiffusionUNet, data: Tensor, seed: int, out: Path, *, restart: bool
) -> TrainResult:
    """Train as the demonstration does; with `restart` anew, whatever an earlier one left in `out`."""
    return train(
        model,
        data,
        betas=recipe.betas,
        **recipe.training,
        seed=seed,
        weights_dir=out,
        force_restart=restart,
        device="cpu",
        progress=on_terminal(),
        callback=None if on_terminal() else outputs.epoch_lines(click.echo),
    )


def _leave_pictures(out: Path, data: Tensor, drawn: dict[str, Tensor]) -> None:
    """Draw training data and samples, each alone and all side by side."""
    # Evenly out of the whole set: neighbours in it are alike.
    training = data[torch.linspace(0, len(data) - 1, len(drawn["ddpm"])).long()]
    shown = {"training": training, **drawn}
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.6), dpi=110, layout="constrained")
    for axis, (name, images) in zip(figure.subplots(1, 3), shown.items(), strict=True):
        outputs.write(out / f"{name}.png", images)
        axis.imshow(grid(images), cmap="gray", vmin=0, vmax=255)
        axis.set_title(
            "Training data (phantoms)" if name == "training" else f"Drawn with {_TITLES.get(name, name)}"
        )
        axis.axis("off")
    outputs.write_figure(out / "beside.png", figure)


def _leave_curve(path: Path, history: list[float]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.4), dpi=110, layout="constrained")
    axis = figure.subplots()
    axis.plot(range(1, len(history) + 1), history)
    axis.set(title="Training loss", xlabel="epoch", ylabel="mean squared error", yscale="log")
    axis.grid(alpha=0.3)
    outputs.write_figure(path, figure)


def _report(setting: Setting, parameters: int, seconds: dict[str, float], result: TrainResult) -> str:
    history, recipe = result.history, setting.recipe
    few = recipe.sampling["sampler"]
    title = _TITLES.get(few, few)
    return f"""# rust_diffusion: the demonstration

![Samples beside training data](beside.png)

A denoiser of {parameters:,} parameters saw {setting.images} phantoms (CT-like slices drawn by rule) of
{setting.size} x {setting.size} pixels for {len(history)} epochs: {result.updates:,} updates.

```text
{recipe}
```

| | |
|---|---|
| training | {seconds["training"]:.0f} s on {torch.get_num_threads()} threads |
| loss, first and last epoch | {history[0]:.4f}, {history[-1]:.4f} |
| {setting.samples} samples with DDPM, {recipe.num_steps} steps | {seconds["ddpm"]:.1f} s |
| {setting.samples} samples with {title}, {recipe.sampling["sample_steps"]} steps | {seconds[few]:.1f} s |

| file | what it is |
|---|---|
| `beside.png` | training data and samples side by side |
| `training.png`, `ddpm.png`, `{few}.png` | the same, each alone |
| `loss.png` | mean loss of each epoch |
| `DDPMDenoiser.pth`, `DDPMDenoiser_raw.pth` | weights: averaged (EMA), and as trained |
| `DDPMDenoiser.ckpt` | checkpoint, from which training can go on |
| `pretrained/` | the averaged weights with all that sampling needs, without pickle |

To draw more: `rust-diffusion sample --weights DDPMDenoiser.pth --seed 1 --out more.png`, in this folder.
"""
