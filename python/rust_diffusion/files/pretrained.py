"""Trained models on disk: saved with all that sampling needs, loaded again from that or from bare weights.

A folder written by `save_pretrained` holds `config.json` (architecture, objective, schedule, image size,
value range) and `model.safetensors`. No pickle is written, and none is read but weights-only.
"""

from __future__ import annotations

import copy
import os
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rust_diffusion.files import diffusers, hub, weights
from rust_diffusion.files.content import existing, read_json, read_safetensors, write_json, write_safetensors
from rust_diffusion.files.weights import Description
from rust_diffusion.model import verbs
from rust_diffusion.model.card import (
    MAX_STEPS,
    OBJECTIVES,
    SCHEDULES,
    ModelCard,
    schedule_name,
    schedule_of,
    size_of,
    stated_objective,
    warn_of_initial_weights,
)
from rust_diffusion.model.network import Network
from rust_diffusion.model.unet import DiffusionUNet
from rust_diffusion.model.unet2d import UNet2DModel
from rust_diffusion.support import checks
from rust_diffusion.support.warning import warn

CONFIG, WEIGHTS = "config.json", "model.safetensors"

_FORMAT, _VERSION = "rust_diffusion", 1
#: What each format writes into a folder, side by side.
_LAYOUTS = {_FORMAT: (CONFIG, WEIGHTS), "diffusers": diffusers.FLAT}
_FORMATS = tuple(_LAYOUTS)
#: Files that stand for the folder that they lie in.
_OF_FOLDERS = (CONFIG, WEIGHTS, diffusers.INDEX, diffusers.SAFETENSORS, diffusers.PICKLED)
_FIELDS = ("model", "objective", "schedule", "image_size", "value_range")


@verbs.lend
def save_pretrained(
    model: Network,
    directory: str | os.PathLike[str],
    *,
    betas: Any = None,
    image_size: Any = None,
    format: str = _FORMATS[0],
) -> Path:
    """Write what `load` needs to sample: see `DiffusionUNet.save_pretrained`."""
    _check_place(Path(directory), checks.choice("format", format, _FORMATS))
    if format == "diffusers":
        return diffusers.save(model, directory, betas=betas, image_size=image_size)
    card = _card_to_save(model, betas, image_size)
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    content = write_safetensors(folder / WEIGHTS, model)
    config = {
        "format": _FORMAT,
        "format_version": _VERSION,
        "model": model.config,
        "schedule": _recipe(card.pop("betas")),
        **card,
        "weights_crc32": zlib.crc32(content),
    }
    # last, since it marks the folder as complete
    write_json(folder / CONFIG, config)
    return folder


def _check_place(folder: Path, format: str) -> None:
    """Refuse a folder where what another layout has would stay beside the new files, and be read in their place."""
    known = {WEIGHTS, *diffusers.FLAT, *diffusers.NESTED}
    stays = sorted(name for name in known.difference(_LAYOUTS[format]) if (folder / name).exists())
    if stays:
        raise FileExistsError(
            f"directory: {folder} holds a model in another layout than format={format!r} has ({', '.join(stays)}), "
            f"which would be left there and read instead of what is saved: take another folder"
        )


def _card_to_save(model: Network, betas: Any, image_size: Any) -> dict[str, Any]:
    """What the model knows, with what the caller states."""
    card = copy.copy(model.card)
    card.assumed = set(card.assumed)
    checks.choice("objective", card.objective, OBJECTIVES)
    known = schedule_of(model, betas), size_of(model, image_size)
    if betas is not None:
        card.betas = betas
    if image_size is not None:
        card.image_size = image_size
    return {**card.to_dict(), "betas": known[0], "image_size": known[1]}


@verbs.lend
def from_pretrained(directory: str | os.PathLike[str]) -> Network:
    """Load a folder that `save_pretrained` or diffusers wrote: see `DiffusionUNet.from_pretrained`."""
    folder = _folder(Path(directory))
    if diffusers.is_folder(folder):
        return diffusers.load(folder)
    path = folder / WEIGHTS
    described = _describe(folder, check=True)
    return weights.fill(described.plan(), read_safetensors(path), path).eval()


def describe(path: str | os.PathLike[str], num_heads: int | None = None) -> Description:
    """What the model that `load` would read says of itself; its weights are not read.

    Raises
    ------
    FileNotFoundError, ValueError
        As `load`.
    """
    source = _locate(Path(path))
    return _describe(source, check=False) if source.is_dir() else weights.describe(source, num_heads)


def _describe(folder: Path, check: bool) -> Description:
    """Read the configuration, and with `check` compare the weights with what it says of them."""
    if diffusers.is_folder(folder):
        return diffusers.describe(folder)
    path = folder / CONFIG
    config = _read_config(path)
    expected = config.get("weights_crc32")
    if check and expected is not None and expected != _crc32(existing(folder / WEIGHTS)):
        raise ValueError(
            f"{folder / WEIGHTS} is damaged or another file than the one saved with {CONFIG}; if you changed it "
            f'yourself, take "weights_crc32" out of {CONFIG}'
        )
    try:
        card = ModelCard.from_dict({**config, "betas": _betas(config["schedule"])})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    network = UNet2DModel if "block_out_channels" in config["model"] else DiffusionUNet
    return Description(path, config["model"], card, network)


def _crc32(path: Path) -> int:
    """The checksum of a file: safetensors has none of its own."""
    checksum = 0
    with open(path, "rb") as file:
        while part := file.read(2**20):
            checksum = zlib.crc32(part, checksum)
    return checksum


def load(
    path: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    num_heads: int | None = None,
    betas: Any = None,
    objective: str | None = None,
    image_size: Any = None,
) -> Any:
    """Load a trained denoiser from whatever holds one, ready for ``.sample(8)``.

    Parameters
    ----------
    path : str or path
        A folder written by `save_pretrained`; a folder that `train` wrote into; a ``.pth`` state dict, the
        course's too (the architecture is read off the shapes); a ``.ckpt`` checkpoint (its EMA weights); a folder of
        diffusers with a `UNet2DModel`, or its file of weights; or the name of one on the Hub, such as
        "google/ddpm-cifar10-32".
    device : str or torch.device
        Where the model goes.
    num_heads, betas, objective, image_size : optional
        What bare weights do not say. The checkpoint beside a ``.pth`` is asked first; without one they are
        the course's: 4 heads, cosine schedule of 400 steps, "eps", 64 x 64. What is given here comes first.

    Returns
    -------
    DiffusionUNet or UNet2DModel
        In eval mode.

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder.
    ValueError
        If what is there is of no network of the engine; the message names the file and what is wrong with it.

    Examples
    --------
    >>> import rust_diffusion as rd
    >>> images = rd.load("weights/DDPMDenoiser.pth").sample(8, seed=0)  # doctest: +SKIP
    """
    where = checks.device("device", device)
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a str or a path, got {type(path).__name__}")
    source = _locate(Path(path))
    if source.is_dir():
        if num_heads is not None:
            raise ValueError(f"num_heads is part of {source / CONFIG} and cannot be given")
        model = from_pretrained(source)
    else:
        model = weights.read(source, num_heads)
    if objective is not None:
        stated, model.objective = stated_objective(model), checks.choice("objective", objective, OBJECTIVES)
        if stated not in (None, objective):
            warn(
                f"{source} says that its model predicts {stated!r}; taken for one that predicts {objective!r}, it "
                f"draws noise"
            )
    elif betas is None and stated_objective(model) is None and model.card.certainty("betas") == "assumed":
        height, width = size_of(model)
        warn(
            f"{source} says nothing of its model, which is taken for the course's: it predicts {model.objective!r}, "
            f"T = {len(schedule_of(model))}, images of {height} x {width}. objective=, betas= and image_size= say "
            f"otherwise"
        )
    if betas is not None:
        model.betas = checks.schedule("betas", betas)
    if image_size is not None:
        model.image_size = checks.pair("image_size", image_size)
    warn_of_initial_weights(model)
    return model.to(where)


def _recipe(betas: Tensor) -> dict[str, Any]:
    """Describe the schedule: by name where it has one, else in full."""
    name = schedule_name(betas)
    if name is not None:
        return {"name": name, "num_steps": len(betas)}
    return {"name": "custom", "num_steps": len(betas), "betas": betas.tolist()}


def _betas(recipe: Any) -> Tensor:
    try:
        name, steps = recipe["name"], checks.integer("num_steps", recipe["num_steps"], 1, MAX_STEPS)
        betas = SCHEDULES[name](steps) if name in SCHEDULES else checks.schedule("betas", recipe["betas"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f'"schedule" is not one that can be read: {error}') from None
    if len(betas) != steps:
        raise ValueError(f'"schedule" has {len(betas)} betas and says {steps}')
    return betas


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json(path)
    if not isinstance(config, dict) or config.get("format") != _FORMAT:
        raise ValueError(f'{path} was not written by save_pretrained (no "format": "{_FORMAT}")')
    if config.get("format_version") != _VERSION:
        version = config.get("format_version")
        raise ValueError(f"{path} has format_version {version!r}; this rust_diffusion reads {_VERSION}")
    missing = [name for name in _FIELDS if config.get(name) is None]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(map(repr, missing))}")
    if not isinstance(config["model"], dict):
        raise ValueError(f'{path}: "model" must be an object, got {config["model"]!r}')
    return config


def _folder(path: Path) -> Path:
    """Return `path`, or the folder where the network of that name on the Hub lies."""
    if path.exists():
        return path
    if hub.is_name(path):
        return hub.fetch(path.as_posix())
    raise FileNotFoundError(f"there is no file or folder {path}")


def _locate(path: Path) -> Path:
    """Find the folder written by save_pretrained, or the one file, that is meant by `path`."""
    path = _folder(path)
    if path.is_file():
        return path.parent if path.name in _OF_FOLDERS else path
    if (path / CONFIG).is_file() or diffusers.is_folder(path):
        return path
    found = sorted(p for p in path.glob("*.pth") if not p.stem.endswith("_raw"))
    names = [p.name for p in path.iterdir()]
    if not found and any(name.endswith(diffusers.FLAX) for name in names):
        raise diffusers.without_weights(path, names)
    if len(found) != 1:
        there = ", ".join(p.name for p in found) or "none"
        raise ValueError(
            f"{path} holds neither {CONFIG} nor exactly one .pth file (found: {there}); name the file"
        )
    return found[0]
