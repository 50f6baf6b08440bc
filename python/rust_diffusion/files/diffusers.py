"""Folders of the diffusers library: `UNet2DModel` networks with their schedule, read and written without diffusers.

A folder is laid out as google/ddpm-cifar10-32 is, everything side by side, or as a pipeline, in `unet/` and
`scheduler/`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rust_diffusion import _native
from rust_diffusion.files import weights
from rust_diffusion.files.content import (
    read_json,
    read_safetensors,
    read_torch,
    write_json,
    write_safetensors,
)
from rust_diffusion.files.weights import Description
from rust_diffusion.model.card import MAX_STEPS, ModelCard, schedule_name, schedule_of, size_of
from rust_diffusion.model.network import Network
from rust_diffusion.model.unet2d import UNet2DModel
from rust_diffusion.support import checks

CONFIG, INDEX, SCHEDULER = "config.json", "model_index.json", "scheduler_config.json"
SAFETENSORS, PICKLED = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"
NETWORK = "UNet2DModel"

#: diffusers' words for what a network predicts, and ours.
_OBJECTIVES = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
#: How attention's weights were called before diffusers 0.16, and are called since.
_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
#: What a scheduler's configuration means where it leaves something out (DDPMScheduler's own defaults).
_SCHEDULE = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "num_train_timesteps": 1000}
#: The version of diffusers whose layout is written.
_VERSION = "0.30.0"


def is_folder(folder: Path) -> bool:
    """Whether diffusers wrote this folder: one of its networks, not necessarily one that can be read here."""
    if (folder / INDEX).is_file() or (folder / "unet" / CONFIG).is_file():
        return True
    return (folder / CONFIG).is_file() and "_class_name" in _object(folder / CONFIG)


def describe(folder: Path) -> Description:
    """What the folder says of its network; nothing but the two configurations is opened.

    Raises
    ------
    FileNotFoundError, ValueError
        If a file is missing, damaged, or of a network that the engine does not compute; the message names it.
    """
    path = _part(folder, "unet", CONFIG)
    config = _object(path)
    kind = config.get("_class_name", NETWORK)
    if kind != NETWORK:
        raise ValueError(
            f"{path} describes a {kind}; of diffusers' networks only {NETWORK} is computed here (a {kind} loaded by "
            f"diffusers itself can be sampled from and trained as a callable)"
        )
    card = _card(folder)
    if config.get("sample_size") is not None:
        card.image_size = checks.pair(f"{path}: sample_size", config["sample_size"])
    own = {name: value for name, value in config.items() if not name.startswith("_")}
    return Description(path, own, card, UNet2DModel)


def load(folder: Path) -> Network:
    """Load a network of the `UNet2DModel` family, in eval mode, with what the folder says of its schedule.

    Raises
    ------
    FileNotFoundError, ValueError
        As `describe`, or if the weights are missing or do not fit; the message names the file.
    """
    described = describe(folder)
    path = _weights(described.path.parent)
    content = read_safetensors(path) if path.name == SAFETENSORS else read_torch(path)
    renamed = {_new_name(name): tensor for name, tensor in content.items()}
    return weights.fill(described.plan(), renamed, path).eval()


def save(
    model: Network, directory: str | os.PathLike[str], *, betas: Any = None, image_size: Any = None
) -> Path:
    """Write a folder that `diffusers.DDPMPipeline` and `diffusers.UNet2DModel` load by `from_pretrained`.

    Raises
    ------
    ValueError
        If the network is not of the `UNet2DModel` family, or schedule or size are neither known nor given.
    """
    if not isinstance(model, UNet2DModel):
        raise ValueError(
            f'format="diffusers" is for a UNet2DModel, got a {type(model).__name__}: diffusers has no such network'
        )
    height, width = size_of(model, image_size)
    scheduler = _scheduler(schedule_of(model, betas), model.objective)
    unet = {
        "_class_name": NETWORK,
        "_diffusers_version": _VERSION,
        **model.config,
        "sample_size": height if height == width else [height, width],
    }
    index = {
        "_class_name": "DDPMPipeline",
        "_diffusers_version": _VERSION,
        "scheduler": ["diffusers", scheduler["_class_name"]],
        "unet": ["diffusers", NETWORK],
    }
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / SAFETENSORS, model)
    for name, values in ((SCHEDULER, scheduler), (CONFIG, unet), (INDEX, index)):
        write_json(folder / name, values)
    return folder


def _object(path: Path) -> dict[str, Any]:
    values = read_json(path)
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold an object, got {type(values).__name__}")
    return values


def _part(folder: Path, part: str, name: str) -> Path:
    """Return the file of a part, which lies in a folder of its own in a pipeline."""
    inside = folder / part / name
    return inside if inside.is_file() else folder / name


def _weights(folder: Path) -> Path:
    """Find the file of the weights."""
    for name in (SAFETENSORS, PICKLED):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder} has neither {SAFETENSORS} nor {PICKLED}")


def _new_name(name: str) -> str:
    """Give a weight of attention the name that it has today."""
    parent, _, kind = name.rpartition(".")
    above, _, layer = parent.rpartition(".")
    return f"{above}.{_ATTENTION[layer]}.{kind}" if layer in _ATTENTION else name


def _card(folder: Path) -> ModelCard:
    """What the scheduler's configuration says; without one, the family's own schedule is assumed."""
    path = _part(folder, "scheduler", SCHEDULER)
    card = ModelCard()
    if not path.is_file():
        card.assume(betas=_betas(_SCHEDULE))
        return card
    config = {**_SCHEDULE, **_object(path)}
    said = config.get("prediction_type", "epsilon")
    if said not in _OBJECTIVES:
        raise ValueError(f"{path}: prediction_type must be one of {', '.join(_OBJECTIVES)}, got {said!r}")
    card.objective = _OBJECTIVES[said]
    try:
        card.betas = _betas(config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    return card


def _betas(config: Mapping[str, Any]) -> Tensor:
    if config.get("trained_betas") is not None:
        return checks.schedule("trained_betas", config["trained_betas"])
    steps = checks.integer("num_train_timesteps", config["num_train_timesteps"], 1, MAX_STEPS)
    start, end = (checks.number(name, config[name], 0.0, 1.0) for name in ("beta_start", "beta_end"))
    kind = config["beta_schedule"]
    if kind == "linear":
        return _native.linear_beta_schedule(steps, start, end)
    if kind == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, steps).square()
    if kind == "squaredcos_cap_v2":
        return _native.cosine_beta_schedule(steps)
    raise ValueError(f"beta_schedule must be linear, scaled_linear or squaredcos_cap_v2, got {kind!r}")


def _scheduler(betas: Tensor, objective: str) -> dict[str, Any]:
    words = {ours: theirs for theirs, ours in _OBJECTIVES.items()}
    checks.choice("objective", objective, tuple(words))
    said: dict[str, Any] = {
        "_class_name": "DDPMScheduler",
        "_diffusers_version": _VERSION,
        "num_train_timesteps": len(betas),
        "prediction_type": words[objective],
        "clip_sample": True,
        "variance_type": "fixed_small",
    }
    if schedule_name(betas) == "linear":
        return {**said, **{name: _SCHEDULE[name] for name in ("beta_schedule", "beta_start", "beta_end")}}
    return {**said, "trained_betas": betas.tolist()}
