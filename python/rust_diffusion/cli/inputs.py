"""What commands read: images, and trained models; with the options that say how."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from rust_diffusion import _native
from rust_diffusion.cli.main import on_terminal
from rust_diffusion.cli.options import NumberList, given, option_of, together
from rust_diffusion.data.images import ON_ERROR, load_images
from rust_diffusion.data.phantoms import phantoms
from rust_diffusion.files import checkpoint
from rust_diffusion.files.pretrained import load
from rust_diffusion.model.card import COURSE_STEPS, OBJECTIVES, SCHEDULES
from rust_diffusion.model.network import Network
from rust_diffusion.support.images import as_images

SCHEDULE_NAMES = tuple(SCHEDULES)
#: How many phantoms, if the user names no number.
PHANTOMS = 1024
#: Suffixes of files that hold images as values.
VALUES = (".npy", ".pt")

#: Options whose set is the one that `--cache` names.
_MAIN = ("--data", "--input")
_ABOUT_IMAGES = ("channels", "fit", "on_error", "cache", "window")
about_files = together(
    option_of(
        load_images,
        "fit",
        "About files of other proportions: stretch, crop, or pad with black.",
        choices=_native.FITS,
    ),
    option_of(
        load_images,
        "on_error",
        "About files that are missing, damaged or no images: fail and name them, or go on without them.",
        choices=ON_ERROR,
    ),
    option_of(
        load_images,
        "cache",
        "Keep the decoded set in this file or folder, so that the next start is instant. What another option reads "
        "beside --data or --input has a file of its own: with --val-data, NAME-val-data beside NAME.",
        type=str,
    ),
    option_of(
        load_images,
        "window",
        "Level and width of the values to show. For DICOM files, which need it, on the Hounsfield scale: for lungs "
        "about -600,1500. For others of 16 bits in their own values.",
        type=NumberList(float),
    ),
)
about_images = together(option_of(load_images, "channels", "1 is grey, 3 is RGB."), about_files)

#: What bare weights do not say.
about_weights = together(
    click.option("--num-heads", type=int, help="Heads of its attention, if no checkpoint says."),
    click.option("--schedule", type=click.Choice(SCHEDULE_NAMES), help="Likewise, the noise schedule."),
    click.option(
        "--num-steps", type=int, help="Likewise, T of the schedule (how many steps a sampler takes: --steps)."
    ),
    click.option("--objective", type=click.Choice(OBJECTIVES), help="Likewise, what it predicts."),
)


def read_images(
    context: click.Context, option: str, data: str, size: tuple[int, int], **known: Any
) -> torch.Tensor:
    """Read the images that an option names: a folder, a file, a glob, or phantoms[:N[:SEED]].

    `known` are arguments of `load_images` that are not left to the user.
    """
    name, _, numbers = data.partition(":")
    try:
        if name != "phantoms" or Path(data).exists():
            options = {**given(context, _ABOUT_IMAGES), **known}
            if "cache" in options:
                options["cache"] = _cache_of(option, options["cache"])
            return load_images(data, size=size, progress=on_terminal(), **options)
        count, _, seed = numbers.partition(":")
        if not (count or "0").isdigit() or not (seed or "0").isdigit():
            usual = f"phantoms:{PHANTOMS}"
            message = f"{data} names no number of images, as {usual} does (and {usual}:1 a seed)"
            raise click.BadParameter(message, param_hint=option)
        if size[0] != size[1]:
            raise click.BadParameter(
                f"phantoms are square, and the size is {size[0]} x {size[1]}", param_hint=option
            )
        return phantoms(int(count or PHANTOMS), size=size[0], seed=int(seed or 0))
    except (OSError, ValueError) as error:
        # The words of `load_images` and `phantoms`, whose arguments are this option here.
        words = re.sub(r"^(path: |n\b)", "", str(error))
        raise type(error)(f"{option} {data}: {words}") from error


def _cache_of(option: str, cache: str) -> str | Path:
    """The cache of the set that `option` names: two sets in one file would overwrite each other."""
    path = Path(cache).expanduser()
    if option in _MAIN or path.is_dir():
        return cache
    return path.with_name(f"{path.stem}{option.replace('--', '-', 1)}{path.suffix}")


def read_values(option: str, path: Path) -> torch.Tensor:
    """Read images as values, .npy or .pt, as `sample` writes them."""
    if not path.is_file():
        raise FileNotFoundError(f"{option} {path}: there is no such file")
    try:
        images = np.load(path, allow_pickle=False) if path.suffix == ".npy" else checkpoint.load(path)
    except (EOFError, ValueError) as error:
        raise ValueError(f"{option} {path} cannot be read: {error}") from error
    return as_images(images, f"{option} {path}")


def load_model(context: click.Context) -> Network:
    """Load `--weights`, with what the user says about them."""
    options = context.params
    told = {name: options[name] for name in ("device", "num_heads", "objective")}
    model = load(options["weights"], **told)
    steps, schedule = options["num_steps"], options["schedule"]
    if steps is None and schedule is None:
        return model
    betas = SCHEDULES[schedule or SCHEDULE_NAMES[0]](steps or COURSE_STEPS)
    if not torch.equal(betas, torch.as_tensor(model.betas)):
        if model.card.certainty("betas") == "stated":
            raise click.UsageError(
                f"--num-steps, --schedule: {options['weights']} brings along the schedule that it was trained "
                f"with (how many steps a sampler takes: --steps)"
            )
        model.betas = betas
    return model
