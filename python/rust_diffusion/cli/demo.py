"""`rust-diffusion demo`: a small denoiser trained on phantoms for some minutes, and what it draws."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from rust_diffusion._native import cosine_beta_schedule
from rust_diffusion.cli import outputs
from rust_diffusion.cli.main import command, on_terminal
from rust_diffusion.cli.options import PATH
from rust_diffusion.data.phantoms import phantoms
from rust_diffusion.files import atomic
from rust_diffusion.model.unet import DiffusionUNet
from rust_diffusion.training.result import EpochInfo, TrainResult
from rust_diffusion.training.train import train
from rust_diffusion.view.pictures import grid


@dataclass(frozen=True)
class Setting:
    """The demonstration's size."""

    images: int = 1024
    size: int = 48
    base_ch: int = 16
    channel_mults: tuple[int, ...] = (1, 2, 4)
    attn_levels: tuple[int, ...] = (2,)
    time_dim: int = 128
    #: T. Fewer than the course's 400, so that DDPM, which takes every one, stays quick.
    num_steps: int = 200
    epochs: int = 20
    batch_size: int = 16
    learning_rate: float = 2e-3
    #: In a short run "v" gets the grey of large areas right, which "eps" needs many more steps for.
    objective: str = "v"
    #: Forgets the random initial weights within a short run: 0.99^1280 is nothing, 0.9995^1280 is half.
    ema_decay: float = 0.99
    samples: int = 16
    ddim_steps: int = 50


QUICK = Setting(
    images=32,
    size=16,
    base_ch=8,
    channel_mults=(1, 2),
    attn_levels=(),
    num_steps=20,
    epochs=2,
    samples=4,
    ddim_steps=5,
)


def epoch_lines(epochs: int, say: Callable[[str], Any]) -> Callable[[EpochInfo], None]:
    """Make a callback for `train` that says a line per epoch: what a log keeps of a progress bar."""

    def line(epoch: EpochInfo) -> None:
        validation = "" if epoch.val_loss is None else f"  validation {epoch.val_loss:.5f}"
        say(
            f"epoch {epoch.epoch + 1}/{epochs}  loss {epoch.loss:.5f}{validation}  lr {epoch.lr:.2e}  "
            f"{epoch.images_per_second:.1f} images/s"
        )

    return line


@command("""
    rust-diffusion demo
    rust-diffusion demo --out my-demo --seed 1
""")
@click.option("--out", type=PATH, default="demo-output", show_default=True, help="Folder.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of data, training and sampling.")
@click.option("--quick", is_flag=True, help="Seconds instead of minutes: tries the installation only.")
def demo(out: Path, seed: int, quick: bool) -> None:
    """Train a small denoiser on phantoms for some minutes and draw slices with it."""
    setting = QUICK if quick else Setting()
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    data = phantoms(setting.images, size=setting.size, seed=seed)
    model = make_network(setting)
    parameters = sum(p.numel() for p in model.parameters())
    click.echo(
        f"Training {parameters / 1e6:.2f}M parameters on {setting.images} phantoms of {setting.size} x "
        f"{setting.size} for {setting.epochs} epochs, on {torch.get_num_threads()} threads."
    )
    seconds: dict[str, float] = {}
    with _timed("training", seconds):
        result = train_network(setting, model, data, seed, out, restart=True)
    denoiser = result.ema.shadow
    drawn = {}
    for sampler, options in (("ddpm", {}), ("ddim", {"sample_steps": setting.ddim_steps})):
        with _timed(sampler, seconds):
            drawn[sampler] = denoiser.sample(
                setting.samples, sampler, seed=seed, progress=on_terminal(), **options
            )
    _leave_pictures(out, data, drawn)
    _leave_curve(out / "loss.png", result.history)
    denoiser.save_pretrained(out / "pretrained")
    with atomic.replacing(out / "report.md") as file:
        file.write(_report(setting, parameters, seconds, result.history).encode())
    click.echo(
        f"Done. Pictures, loss curve and weights are in {out}/; {out / 'report.md'} tells what is what."
    )


@contextlib.contextmanager
def _timed(name: str, seconds: dict[str, float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


def make_network(setting: Setting) -> DiffusionUNet:
    """Make the demonstration's network."""
    return DiffusionUNet(
        base_ch=setting.base_ch,
        channel_mults=setting.channel_mults,
        attn_levels=setting.attn_levels,
        time_dim=setting.time_dim,
        dropout=0.0,
    )


def train_network(
    setting: Setting, model: DiffusionUNet, data: Tensor, seed: int, out: Path, *, restart: bool
) -> TrainResult:
    """Train as the demonstration does; with `restart` anew, whatever an earlier one left in `out`."""
    return train(
        model,
        data,
        betas=cosine_beta_schedule(setting.num_steps),
        epochs=setting.epochs,
        batch_size=setting.batch_size,
        learning_rate=setting.learning_rate,
        ema_decay=setting.ema_decay,
        objective=setting.objective,
        seed=seed,
        weights_dir=out,
        force_restart=restart,
        device="cpu",
        progress=on_terminal(),
        callback=None if on_terminal() else epoch_lines(setting.epochs, click.echo),
    )


def _leave_pictures(out: Path, data: Tensor, drawn: dict[str, Tensor]) -> None:
    """Draw training data and samples, each alone and all side by side."""
    # Evenly out of the whole set: neighbours in it are alike.
    training = data[torch.linspace(0, len(data) - 1, len(drawn["ddim"])).long()]
    titles = {
        "training": "Training data (phantoms)",
        "ddpm": "Drawn with DDPM",
        "ddim": "Drawn with DDIM",
    }
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.6), dpi=110, layout="constrained")
    for axis, (name, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        images = training if name == "training" else drawn[name]
        outputs.write(out / f"{name}.png", images)
        axis.imshow(grid(images), cmap="gray", vmin=0, vmax=255)
        axis.set_title(title)
        axis.axis("off")
    outputs.write_figure(out / "beside.png", figure)


def _leave_curve(path: Path, history: list[float]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.4), dpi=110, layout="constrained")
    axis = figure.subplots()
    axis.plot(range(1, len(history) + 1), history)
    axis.set(title="Training loss", xlabel="epoch", ylabel="mean squared error of the noise", yscale="log")
    axis.grid(alpha=0.3)
    outputs.write_figure(path, figure)


def _report(setting: Setting, parameters: int, seconds: dict[str, float], history: list[float]) -> str:
    steps = setting.epochs * -(-setting.images // setting.batch_size)
    return f"""# rust_diffusion: the demonstration

![Samples beside training data](beside.png)

A denoiser of {parameters:,} parameters saw {setting.images} phantoms (CT-like slices drawn by rule) of
{setting.size} x {setting.size} pixels for {setting.epochs} epochs: {steps:,} steps of {setting.batch_size}.

| | |
|---|---|
| training | {seconds["training"]:.0f} s on {torch.get_num_threads()} threads |
| loss, first and last epoch | {history[0]:.4f}, {history[-1]:.4f} |
| {setting.samples} samples with DDPM, {setting.num_steps} steps | {seconds["ddpm"]:.1f} s |
| {setting.samples} samples with DDIM, {setting.ddim_steps} steps | {seconds["ddim"]:.1f} s |

| file | what it is |
|---|---|
| `beside.png` | training data and samples side by side |
| `training.png`, `ddpm.png`, `ddim.png` | the same, each alone |
| `loss.png` | mean loss of each epoch |
| `DDPMDenoiser.pth`, `DDPMDenoiser_raw.pth` | weights: averaged (EMA), and as trained |
| `DDPMDenoiser.ckpt` | checkpoint, from which training can go on |
| `pretrained/` | the averaged weights with all that sampling needs, without pickle |

To draw more: `rust-diffusion sample --weights DDPMDenoiser.pth --seed 1 --out more.png`, in this folder.
"""
