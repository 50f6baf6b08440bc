"""Folders of the diffusers library: `UNet2DModel` networks with their schedule, read and written without diffusers.

A folder is laid out as google/ddpm-cifar10-32 is, everything side by side, or as a pipeline, in `unet/` and
`scheduler/`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor

from rust_diffusion import _native
from rust_diffusion.files import atomic, checkpoint, weights
from rust_diffusion.model.card import MAX_STEPS, ModelCard, schedule_of, size_of
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
    """Whether diffusers wrote this folder: some network of its, not necessarily one that can be read here."""
    if (folder / INDEX).is_file() or (folder / "unet" / CONFIG).is_file():
        return True
    return (folder / CONFIG).is_file() and "_class_name" in _json(folder / CONFIG)


def describe(folder: Path) -> tuple[dict[str, Any], ModelCard]:
    """Read the arguments of `UNet2DModel` and the card; nothing but the two configurations is opened.

    Raises
    ------
    FileNotFoundError, ValueError
        If a file is missing, damaged, or of a network that the engine does not compute; the message names it.
    """
    path = _part(folder, "unet", CONFIG)
    config = _json(path)
    kind = config.get("_class_name", NETWORK)
    if kind != NETWORK:
        raise ValueError(
            f"{path} describes a {kind}; of diffusers' networks only {NETWORK} is computed here (a {kind} loaded by "
            f"diffusers itself can be sampled from and trained as a callable)"
        )
    card = _card(folder)
    if config.get("sample_size") is not None:
        card.image_size = checks.pair(f"{path}: sample_size", config["sample_size"])
    return {name: value for name, value in config.items() if not name.startswith("_")}, card


def load(folder: Path) -> UNet2DModel:
    """Load a network of the `UNet2DModel` family, in eval mode, with what the folder says of its schedule.

    Raises
    ------
    FileNotFoundError, ValueError
        As `describe`, or if the weights are missing or do not fit; the message names the file.
    """
    config, card = describe(folder)
    model = _plan(config, _part(folder, "unet", CONFIG))
    model.card = card
    path, content = _weights(_part(folder, "unet", CONFIG).parent)
    weights.fill(model, {_new_name(name): tensor for name, tensor in content.items()}, path)
    return model.eval()


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
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic.replacing(folder / SAFETENSORS) as file:
        file.write(to_safetensors(content, metadata={"format": "pt"}))
    for name, values in ((SCHEDULER, scheduler), (CONFIG, unet), (INDEX, index)):
        with atomic.replacing(folder / name) as file:
            file.write(f"{json.dumps(values, indent=2)}\n".encode())
    return folder


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(weights.existing(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold an object, got {type(values).__name__}")
    return values


def _part(folder: Path, part: str, name: str) -> Path:
    """Return the file of a part, which lies in a folder of its own in a pipeline."""
    inside = folder / part / name
    return inside if inside.is_file() else folder / name


def _plan(config: dict[str, Any], path: Path) -> UNet2DModel:
    """Make the network without memory for its weights; no random number is drawn."""
    try:
        with torch.device("meta"):
            return UNet2DModel(**config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def _weights(folder: Path) -> tuple[Path, Mapping[str, Tensor]]:
    """Read the weights, of a pickle nothing but tensors."""
    path = folder / SAFETENSORS
    if path.is_file():
        try:
            return path, load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged or no safetensors file: {error}") from None
    path = folder / PICKLED
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has neither {SAFETENSORS} nor {PICKLED}")
    try:
        content = checkpoint.load(path)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as weights: {error}") from None
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a state dict")
    return path, content


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
    config = {**_SCHEDULE, **_json(path)}
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
    steps, first, last = len(betas), float(betas[0]), float(betas[-1])
    said: dict[str, Any] = {
        "_class_name": "DDPMScheduler",
        "_diffusers_version": _VERSION,
        "num_train_timesteps": steps,
        "prediction_type": words[objective],
        "clip_sample": True,
        "variance_type": "fixed_small",
    }
    if first < last and torch.equal(_native.linear_beta_schedule(steps, 1e-4, 0.02), betas):
        return {**said, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
    return {**said, "trained_betas": betas.tolist()}
