"""Where the images come from, and the denoiser that is trained on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import rust_diffusion as rd
import torch
from rust_diffusion.inverse import LocalError
from torch import Tensor

from benchmarks.harness.changes import parsed

SIZE = 64
T = 200
BATCH = 16
#: Seeds of the phantoms: training, the denoiser's own error, the test.
SEEDS = (0, 1000, 2000)
TRAINING, HELD_OUT = 4096, 64
#: Timesteps at which the error is measured.
VISITED = 40
#: One slice more than is cut from a person: the next slice shows somebody else, at the next height.
APART = 17
#: What `rust-diffusion demo` trains, 0.9 million parameters.
_DEMO = rd.recipe("demo", size=48)
NETWORK: dict[str, Any] = _DEMO.network
RECIPE: dict[str, Any] = {
    **{name: _DEMO.training[name] for name in ("learning_rate", "ema_decay")},
    "objective": "v",
    "precision": "bf16",
}
#: The denoiser's error: a number a timestep, (T,), each Fourier mode's, (T, H, W // 2 + 1), or a `LocalError`.
ERRORS: dict[str, dict[str, Any]] = {"one": {}, "modes": {"spectrum": True}, "local": {"local": True}}
#: Of the course's folders: one training slice in ten only tells the denoiser's error.
EVERY = 10


@dataclass(frozen=True)
class Images:
    """Three sets that share no image, each (N, 1, 64, 64) in [-1, 1]."""

    name: str
    #: Made when they are asked for.
    training: Callable[[], Tensor]
    #: What the denoiser's error is measured on.
    held_out: Callable[[], Tensor]
    test: Tensor


def drawn(count: int) -> Images:
    """Phantoms; those of the test show `count` different persons, none of whom training has seen."""
    training, held_out, test = SEEDS
    return Images(
        "phantoms",
        lambda: rd.phantoms(TRAINING, SIZE, training),
        lambda: rd.phantoms(APART * HELD_OUT, SIZE, held_out)[::APART],
        rd.phantoms(APART * count, SIZE, test, progress=False)[::APART],
    )


def real(folder: Path, count: int) -> Images:
    """Slices in the course's layout, FOLDER/train/PATIENT/*.png and FOLDER/test/PATIENT/*.png."""
    training, test = (
        rd.load_images(f"{folder}/{part}/*/*.png", SIZE, progress=False) for part in ("train", "test")
    )
    if len(test) < count:
        click.echo(f"{folder} has {len(test)} test slices, not {count}.")
    held = torch.arange(len(training)) % EVERY == EVERY // 2
    chosen = torch.linspace(0, len(test) - 1, min(count, len(test))).round().long()
    return Images("slices", lambda: training[~held], lambda: training[held], test[chosen])


@dataclass(frozen=True)
class Prior:
    """A trained denoiser and its schedule."""

    model: rd.DiffusionUNet
    alpha_bars: Tensor
    #: What its error is measured on, made when that is asked for.
    held_out: Callable[[], Tensor]
    #: Where the errors are kept.
    folder: Path

    def error(self, name: str) -> Any:
        """Return how wrong it is on images held out, of `ERRORS`; measured once."""
        path = self.folder / f"error-{name}.pt"
        if not path.is_file():
            device = next(self.model.parameters()).device
            found = rd.denoising_error(
                self.model, self.held_out(), self.alpha_bars, device, VISITED, **ERRORS[name]
            )
            torch.save(tuple(found) if isinstance(found, LocalError) else found, path)
        found = torch.load(path, weights_only=True)
        return LocalError(*found) if isinstance(found, tuple) else found


def trained(images: Images, updates: int, folder: Path, device: str, changes: tuple[str, ...] = ()) -> Prior:
    """Train for so many updates; a run that stands in the folder is resumed, one that is finished is taken.

    `changes` are of the recipe, as ``name=value``.
    """
    name = "-".join(["prior", images.name, str(updates), *changes])
    betas = rd.cosine_beta_schedule(T)
    alpha_bars = torch.cumprod(1 - betas, 0)
    finished = folder / name
    if not finished.is_dir():
        recipe = {**RECIPE, **dict(parsed(change) for change in changes)}
        model = _train(images.training(), images.name, betas, updates, recipe, folder, name, device)
        model.save_pretrained(finished)
    model = rd.load(finished, device=device).eval()
    return Prior(model, alpha_bars, images.held_out, finished)


def _train(
    data: Tensor,
    source: str,
    betas: Tensor,
    updates: int,
    recipe: dict[str, Any],
    folder: Path,
    name: str,
    device: str,
) -> rd.DiffusionUNet:
    torch.manual_seed(0)
    result = rd.train(
        rd.DiffusionUNet(**NETWORK),
        data,
        betas=betas,
        epochs=-(-updates // -(-len(data) // BATCH)),
        max_steps=updates,
        batch_size=BATCH,
        horizontal_flip=source == "slices",
        seed=0,
        weights_dir=folder,
        name=name,
        device=device,
        **recipe,
    )
    return result.ema.shadow
