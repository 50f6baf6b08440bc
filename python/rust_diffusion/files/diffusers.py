"""Folders of the diffusers library: `UNet2DModel` networks with their schedule, read and written without diffusers.

A folder is laid out as google/ddpm-cifar10-32 is, everything side by side, or as a pipeline, in `unet/` and
`scheduler/`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rust_diffusion.files import scheduler, weights
from rust_diffusion.files.content import (
    read_object,
    read_safetensors,
    read_torch,
    write_json,
    write_safetensors,
)
from rust_diffusion.files.weights import Description
from rust_diffusion.model.card import size_of
from rust_diffusion.model.network import Network
from rust_diffusion.model.unet2d import UNet2DModel
from rust_diffusion.support import checks

CONFIG, INDEX, SCHEDULER = "config.json", "model_index.json", scheduler.FILE
SAFETENSORS, PICKLED = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"
#: What is written, side by side; and what of other layouts readers look at first, or would take for the weights.
FLAT, NESTED = (
    (CONFIG, INDEX, SCHEDULER, SAFETENSORS),
    ("unet", "scheduler", PICKLED, f"{SAFETENSORS}.index.json"),
)
NETWORK = "UNet2DModel"
#: The parts of a pipeline that are computed here.
_PARTS = ("unet", "scheduler")

#: How attention's weights were called before diffusers 0.16, and are called since.
_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
#: What diffusers' EMAModel writes about the averaging among the arguments of the network.
_OF_EMA = (
    *("decay", "min_decay", "optimization_step", "update_after_step"),
    *("use_ema_warmup", "inv_gamma", "power"),
)
#: How files of weights end, those of Flax and lists of parts among them.
FLAX = ".msgpack"
_SUFFIXES = (".safetensors", ".bin", ".index.json", FLAX)


def is_folder(folder: Path) -> bool:
    """Whether diffusers wrote this folder: one of its networks, not necessarily one that can be read here."""
    if (folder / INDEX).is_file() or (folder / "unet" / CONFIG).is_file():
        return True
    return (folder / CONFIG).is_file() and "_class_name" in read_object(folder / CONFIG)


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
    config = read_object(path)
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
    card = scheduler.card(folder)
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
    model._of_scheduler = scheduler.drawing(folder)
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
    drawn_by = scheduler.config_of(model, betas, model._of_scheduler)
    unet = {
        "_class_name": NETWORK,
        "_diffusers_version": scheduler.VERSION,
        **model.config,
        "sample_size": height if height == width else [height, width],
    }
    index = {
        "_class_name": "DDPMPipeline",
        "_diffusers_version": scheduler.VERSION,
        "scheduler": ["diffusers", drawn_by["_class_name"]],
        "unet": ["diffusers", NETWORK],
    }
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / SAFETENSORS, model)
    for name, values in ((SCHEDULER, drawn_by), (CONFIG, unet), (INDEX, index)):
        write_json(folder / name, values)
    return folder


def _part(folder: Path, part: str, name: str) -> Path:
    """Return the file of a part, which lies in a folder of its own in a pipeline."""
    inside = folder / part / name
    return inside if inside.is_file() else folder / name


def _pipeline(folder: Path) -> tuple[str, list[str]]:
    """The pipeline that the folder holds, and the names of its parts; "" and none if it is no pipeline's."""
    path = folder / INDEX
    if not path.is_file():
        return "", []
    index = read_object(path)
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
