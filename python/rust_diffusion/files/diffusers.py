"""Folders of the diffusers library: `UNet2DModel` networks with their schedule, read and written without diffusers.

A folder is laid out as google/ddpm-cifar10-32 is, everything side by side, or as a pipeline, in `unet/` and
`scheduler/`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
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
from rust_diffusion.model.card import FLOW, MAX_STEPS, ModelCard, schedule_name, schedule_of, size_of
from rust_diffusion.model.network import Network
from rust_diffusion.model.unet2d import UNet2DModel
from rust_diffusion.support import checks
from rust_diffusion.support.warning import warn

CONFIG, INDEX, SCHEDULER = "config.json", "model_index.json", "scheduler_config.json"
SAFETENSORS, PICKLED = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"
#: What is written, side by side; and what of other layouts readers look at first, or would take for the weights.
FLAT, NESTED = (CONFIG, INDEX, SCHEDULER, SAFETENSORS), ("unet", "scheduler", PICKLED, f"{SAFETENSORS}.index.json")
NETWORK = "UNet2DModel"
#: The parts of a pipeline that are computed here.
_PARTS = ("unet", "scheduler")

#: diffusers' words for what a network predicts, and ours.
_OBJECTIVES = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
#: How attention's weights were called before diffusers 0.16, and are called since.
_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
#: What diffusers' EMAModel writes about the averaging among the arguments of the network.
_OF_EMA = (
    *("decay", "min_decay", "optimization_step", "update_after_step"),
    *("use_ema_warmup", "inv_gamma", "power"),
)
#: What a scheduler's configuration means where it leaves something out (DDPMScheduler's own defaults).
_SCHEDULE = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "num_train_timesteps": 1000}
#: What it says of the drawing alone, which our samplers are told in each call; the same of one for straight paths.
_DRAWING = {"clip_sample": True, "clip_sample_range": 1.0, "variance_type": "fixed_small"}
_DRAWING_STRAIGHT = {"shift": 1.0}
#: Schedulers for straight paths from noise to image, by how their names begin, and the times that networks are shown.
_STRAIGHT, _STRAIGHT_TIMES = "FlowMatch", 1000
#: Those that add noise to an image whose strength stays as it is; their networks want their images scaled.
_EXPLODING = ("EDM", "KarrasVe", "ScoreSdeVe", "CMStochasticIterative", "CosineDPMSolver")
#: What none of our samplers does, and how to do without it.
_REFUSED = {
    "rescale_betas_zero_snr": "take the word out of the file and give rd.load(..., betas=) another schedule",
    "thresholding": "take the word out of the file: estimates are then clamped to [-1, 1]",
}
#: The version of diffusers whose layout is written.
_VERSION = "0.30.0"

#: How files of weights end, those of Flax and lists of parts among them.
FLAX = ".msgpack"
_SUFFIXES = (".safetensors", ".bin", ".index.json", FLAX)


def is_folder(folder: Path) -> bool:
    """Whether diffusers wrote this folder: one of its networks, not necessarily one that can be read here."""
    if (folder / INDEX).is_file() or (folder / "unet" / CONFIG).is_file():
        return True
    return (folder / CONFIG).is_file() and "_class_name" in _object(folder / CONFIG)


def has_weights(folder: Path) -> bool:
    """Whether there are weights beside the network's configuration."""
    return _weights_in(_part(folder, "unet", CONFIG).parent) is not None


def without_weights(where: object, names: Iterable[str]) -> FileNotFoundError:
    """Make the error for a place with files `names`, none of which are weights that can be read."""
    there = sorted(name for name in names if name.endswith(_SUFFIXES))
    text = f"{where} has neither {SAFETENSORS} nor {PICKLED}"
    if there:
        text += f", only {', '.join(there)}"
    if there and all(name.endswith(FLAX) for name in there):
        text += (
            f". These are Flax files, which are not read here: a diffusers that knows Flax turns them into others, "
            f"{NETWORK}.from_pretrained(folder, from_flax=True).save_pretrained(folder)"
        )
    elif there:
        text += (
            f". Variants and parts are not read here: diffusers makes one file of them, "
            f"{NETWORK}.from_pretrained(folder, variant=...).save_pretrained(folder)"
        )
    return FileNotFoundError(text)


def describe(folder: Path) -> Description:
    """What the folder says of its network; nothing but the configurations is opened.

    Raises
    ------
    FileNotFoundError, ValueError
        If a file is missing, damaged, or of a network or a scheduler that is not computed here; the message names it.
    """
    path = _part(folder, "unet", CONFIG)
    pipeline, parts = _pipeline(folder)
    if pipeline and not path.is_file():
        raise ValueError(
            f"{folder / INDEX} describes a {pipeline} ({', '.join(parts)}), and there is no unet/{CONFIG} beside it: "
            f"of diffusers' pipelines those of a {NETWORK} and a scheduler are computed here (the network of another "
            f"one, loaded by diffusers itself, can be sampled from as a callable)"
        )
    config = _object(path)
    kind = config.get("_class_name", NETWORK)
    if kind != NETWORK:
        raise ValueError(
            f"{path} describes a {kind}; of diffusers' networks only {NETWORK} is computed here (a {kind} loaded by "
            f"diffusers itself can be sampled from and trained as a callable)"
        )
    more = [part for part in parts if part not in _PARTS]
    if more:
        raise ValueError(
            f"{folder / INDEX} is of {pipeline}, whose {' and '.join(more)} would be left out: what its unet draws is "
            f"no image yet. Draw with diffusers' own pipeline, or load the unet alone, "
            f"rd.load({str(path.parent)!r}), and take what it draws (clip=False) to the rest yourself"
        )
    card = _card(folder)
    if config.get("sample_size") is not None:
        card.image_size = checks.pair(f"{path}: sample_size", config["sample_size"])
    own = {name: value for name, value in config.items() if not name.startswith("_") and name not in _OF_EMA}
    return Description(path, own, card, UNet2DModel)


def load(folder: Path) -> Network:
    """Load a network of the `UNet2DModel` family, in eval mode, with what the folder says of its schedule.

    Warns where the folder's scheduler draws otherwise than our samplers do unless they are told.

    Raises
    ------
    FileNotFoundError, ValueError
        As `describe`, or if the weights are missing or do not fit; the message names the file.
    """
    described = describe(folder)
    model = described.plan()
    inside = described.path.parent
    path = _weights_in(inside)
    if path is None:
        raise without_weights(inside, (file.name for file in inside.iterdir()))
    content = read_safetensors(path) if path.name == SAFETENSORS else read_torch(path)
    renamed = {_new_name(name): tensor for name, tensor in content.items()}
    weights.fill(model, renamed, path).eval()
    assert isinstance(model, UNet2DModel)
    model._of_scheduler = _drawing(folder)
    return model


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
    scheduler = _scheduler(model, betas)
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


def _pipeline(folder: Path) -> tuple[str, list[str]]:
    """The pipeline that the folder holds, and the names of its parts; "" and none if it is no pipeline's."""
    path = folder / INDEX
    if not path.is_file():
        return "", []
    index = _object(path)
    # a part is [library, class], and [null, null] where it was left out; others are settings
    parts = [name for name, value in index.items() if isinstance(value, list) and any(value)]
    return str(index.get("_class_name", "pipeline")), parts


def _weights_in(folder: Path) -> Path | None:
    """Find the file of the weights, if there is one."""
    return next((folder / name for name in (SAFETENSORS, PICKLED) if (folder / name).is_file()), None)


def _new_name(name: str) -> str:
    """Give a weight of attention the name that it has today."""
    parent, _, kind = name.rpartition(".")
    above, _, layer = parent.rpartition(".")
    return f"{above}.{_ATTENTION[layer]}.{kind}" if layer in _ATTENTION else name


def _scheduler_file(folder: Path) -> Path | None:
    """Find the scheduler's configuration: of a pipeline, of a folder with all in it, or beside a pipeline's unet."""
    places = (folder / "scheduler", folder, folder.absolute().parent / "scheduler")
    return next((place / SCHEDULER for place in places if (place / SCHEDULER).is_file()), None)


def _card(folder: Path) -> ModelCard:
    """What the scheduler's configuration says; without one, the family's own schedule is assumed."""
    path = _scheduler_file(folder)
    card = ModelCard()
    if path is None:
        card.assume(betas=_betas(_SCHEDULE))
        return card
    config = {**_SCHEDULE, **_object(path)}
    _check_scheduler(path, config)
    if _is_straight(config):
        card.objective = FLOW
        # straight paths have none; samplers that follow one may be given any
        card.assume(betas=_betas(_SCHEDULE))
        return card
    said = config.get("prediction_type", "epsilon")
    if said not in _OBJECTIVES:
        raise ValueError(f"{path}: prediction_type must be one of {', '.join(_OBJECTIVES)}, got {said!r}")
    card.objective = _OBJECTIVES[said]
    try:
        card.betas = _betas(config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    return card


def _is_straight(config: Mapping[str, Any]) -> bool:
    return str(config.get("_class_name")).startswith(_STRAIGHT)


def _check_scheduler(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse what would silently draw other images here."""
    elsewhere = "draw with diffusers' own pipeline"
    kind = str(config.get("_class_name"))
    if kind.startswith(_EXPLODING) or config.get("sigma_min") is not None:
        raise ValueError(
            f"{path}: {kind} adds noise to images that keep their strength; our samplers and schedules are for images "
            f"that fade as noise comes in: {elsewhere}"
        )
    for word, remedy in _REFUSED.items():
        if config.get(word):
            raise ValueError(f"{path}: {word} must be false, got {config[word]!r}: {elsewhere}, or {remedy}")
    if str(config.get("variance_type")).startswith("learned"):
        raise ValueError(
            f"{path}: variance_type must be a fixed one, got {config['variance_type']!r}: networks that predict "
            f"variances are not computed here; {elsewhere}"
        )
    if _is_straight(config) and config["num_train_timesteps"] != _STRAIGHT_TIMES:
        raise ValueError(
            f"{path}: num_train_timesteps of a {kind} must be {_STRAIGHT_TIMES}, the times that networks for "
            f'"{FLOW}" are shown here, got {config["num_train_timesteps"]!r}: {elsewhere}'
        )


def _drawing(folder: Path) -> dict[str, Any]:
    """What the scheduler says of the drawing, with a warning where our samplers must be told, or cannot be."""
    path = _scheduler_file(folder)
    if path is None:
        return {}
    config = _object(path)
    usual = _DRAWING_STRAIGHT if _is_straight(config) else _DRAWING
    said = {name: config[name] for name in usual if config.get(name, usual[name]) != usual[name]}
    advice = []
    if not said.get("clip_sample", True):
        advice.append("clip_sample is false, so draw with clip=False")
    elif "clip_sample_range" in said:
        advice.append(f"clip_sample_range is {said['clip_sample_range']!r}, and clip=True clamps to [-1, 1]")
    if said.get("variance_type", "fixed_small_log") != "fixed_small_log":  # another name for the small one
        advice.append(f"variance_type is {said['variance_type']!r}, and ddpm_sample draws with the small one")
    if "shift" in said:
        advice.append(f'shift is {said["shift"]!r}, so draw with sampler="flow", shift={said["shift"]!r}')
    if advice:
        warn(f"{path} asks for what our samplers do not do by themselves: {'; '.join(advice)}")
    return said


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


def _scheduler(model: UNet2DModel, betas: Any) -> dict[str, Any]:
    """The configuration of a scheduler that draws as the model was trained, and as it was told where it came from."""
    words = {ours: theirs for theirs, ours in _OBJECTIVES.items()}
    checks.choice("objective", model.objective, (*words, FLOW))

    def drawing(usual: Mapping[str, Any]) -> dict[str, Any]:
        return {name: model._of_scheduler.get(name, value) for name, value in usual.items()}

    if model.objective == FLOW:
        return {
            "_class_name": f"{_STRAIGHT}EulerDiscreteScheduler",
            "_diffusers_version": _VERSION,
            "num_train_timesteps": _STRAIGHT_TIMES,
            **drawing(_DRAWING_STRAIGHT),
        }
    schedule = schedule_of(model, betas)
    said: dict[str, Any] = {
        "_class_name": "DDPMScheduler",
        "_diffusers_version": _VERSION,
        "num_train_timesteps": len(schedule),
        "prediction_type": words[model.objective],
        **drawing(_DRAWING),
    }
    if schedule_name(schedule) == "linear":
        return {**said, **{name: _SCHEDULE[name] for name in ("beta_schedule", "beta_start", "beta_end")}}
    return {**said, "trained_betas": schedule.tolist()}
