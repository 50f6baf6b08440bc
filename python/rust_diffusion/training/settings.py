"""Checks of what `train` is given; the messages name the argument, what it got and what it takes."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch

from rust_diffusion import _native
from rust_diffusion.files import checkpoint
from rust_diffusion.model.ema import unwrap
from rust_diffusion.model.unet import DiffusionUNet
from rust_diffusion.support import checks
from rust_diffusion.training.batches import Batches, InMemory

PRECISIONS = ("auto", *_native.PRECISIONS)
LR_SCHEDULES = _native.LR_SCHEDULES

_NAME_BYTES = 200


def check_model(model: Any) -> DiffusionUNet:
    """Float32, finite, trainable, and with the forward pass that the engine knows."""
    model = unwrap(model)
    if not isinstance(model, DiffusionUNet):
        raise TypeError(f"model must be a rust_diffusion.DiffusionUNet, got {type(model).__name__}")
    if model._has_own_forward():
        raise TypeError(
            f"model is a {type(model).__name__} with a forward of its own, which the engine would not call; "
            f"train it in a loop of torch's"
        )
    for key, parameter in model.named_parameters():
        if parameter.dtype != torch.float32:
            raise TypeError(f"model must hold float32 weights to train, {key} is {parameter.dtype}")
        if not parameter.requires_grad:
            raise ValueError(f"model must have trainable parameters, {key} has requires_grad=False")
        if not bool(parameter.isfinite().all()):
            raise ValueError(f"model must hold finite weights, {key} has NaN or infinity")
    return model


def check_betas(betas: Any) -> torch.Tensor:
    """A schedule: (T,), floating point, between 0 and 1."""
    if not hasattr(betas, "shape"):
        raise TypeError(f"betas must be a torch.Tensor or a NumPy array, got {type(betas).__name__}")
    tensor = checks.tensor("betas", betas)
    _native.check_betas(tensor)
    return tensor


def weights_folder(folder: Any) -> Path | None:
    """A folder to write to, made if need be."""
    if folder is None:
        return None
    if not isinstance(folder, (str, os.PathLike)):
        raise TypeError(f"weights_dir must be a path, got {type(folder).__name__}")
    if not os.fspath(folder) or "\0" in os.fsdecode(folder):
        raise ValueError(f"weights_dir must be the path of a folder, got {folder!r}")
    path = Path(folder)
    checkpoint.check_folder(path)
    return path


def check_name(name: Any) -> str:
    """A plain file name."""
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, got {type(name).__name__}")
    if not name or Path(name).name != name or "\0" in name:
        raise ValueError(f"name must be the first part of a file name, got {name!r}")
    # A file system takes 255 bytes, and what is added for the files while they are written is some thirty.
    if len(os.fsencode(name)) > _NAME_BYTES:
        raise ValueError(f"name must have at most {_NAME_BYTES} bytes, got {len(os.fsencode(name))}")
    return name


def check_images(name: str, batches: Batches, model: DiffusionUNet) -> None:
    """The shape of data in memory against the network; batches that come later are checked as they come."""
    if not isinstance(batches, InMemory):
        return
    channels, height, width = batches.images.shape[1:]
    multiple = model._native.size_multiple
    if channels != model.config["in_ch"]:
        takes = f"{model.config['in_ch']} channels (the model's in_ch)"
        raise ValueError(f"{name} must have {takes}, got {channels}")
    if height % multiple or width % multiple or not height or not width:
        takes = f"multiples of {multiple} (one halving per level)"
        raise ValueError(f"height and width of {name} must be {takes}, got {height} x {width}")


def pick_precision(precision: str, device: torch.device) -> str:
    """Replace "auto" by the fastest that is safe on the device."""
    if precision != "auto":
        return precision
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"


def norm_limit(name: str, value: Any) -> float:
    """A number above 0, or infinity for no limit."""
    return math.inf if isinstance(value, float) and value == math.inf else positive(name, value)


def positive(name: str, value: Any) -> float:
    """A finite number above 0."""
    number = checks.number(name, value, 0.0)
    if number == 0.0:
        raise ValueError(f"{name} must be above 0, got {number}")
    return number
