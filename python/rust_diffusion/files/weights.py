"""Bare weights: state dicts and checkpoints, the course's too; the architecture is read off their shapes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rust_diffusion._native import MAX_STEPS, cosine_beta_schedule
from rust_diffusion.files import checkpoint
from rust_diffusion.files.checkpoint import OWN
from rust_diffusion.model.card import OBJECTIVES
from rust_diffusion.model.unet import DiffusionUNet
from rust_diffusion.support import checks

#: Steps of the course's cosine schedule: what bare weights, which do not say, are taken to be trained with.
COURSE_STEPS = 400
#: Height and width of the course's slices, in pixels.
COURSE_SIZE = 64
#: What a file may ask for: a small file must not take all memory.
MAX_SIDE = 16384


def from_weights(path: Path, num_heads: int | None = None) -> DiffusionUNet:
    """Load a `.pth` state dict or a `.ckpt`'s EMA weights; the `.ckpt` beside a `.pth` tells the rest."""
    content = read_weights_only(path)
    about_from, described = path, content
    if "ema" not in content:
        about_from = path.with_name(path.stem.removesuffix("_raw") + ".ckpt")
        described = read_weights_only(about_from) if about_from.is_file() else {}
    try:
        weights = content["ema"]["shadow"] if "ema" in content else content
        config = infer_config(weights)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise ValueError(f"{path}: {error}") from None
    try:
        about = _about(described)
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{about_from}: {error}") from None
    heads = num_heads if num_heads is not None else about.get("num_heads")
    if heads is not None:
        config["num_heads"] = heads
    model = fill(plan(config, path), weights, path)
    model.objective = about.get("objective", model.objective)
    model.betas = (
        about["betas"] if "betas" in about else cosine_beta_schedule(about.get("steps", COURSE_STEPS))
    )
    model._knows_schedule = "betas" in about or "steps" in about
    model.image_size = about.get("image_size", (COURSE_SIZE, COURSE_SIZE))
    return model.eval()


def plan(config: dict[str, Any], source: Path) -> DiffusionUNet:
    """Make the network that `source` describes, without memory for its weights; no random number is drawn.

    Raises
    ------
    ValueError
        If there is no such network; the message names the file.
    """
    try:
        with torch.device("meta"):
            return DiffusionUNet(**config)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f'{source}: "model" does not describe a DiffusionUNet: {error}') from None


def fill(model: DiffusionUNet, weights: Mapping[str, Tensor], path: Path) -> DiffusionUNet:
    """Give a planned network the weights that `path` holds, strictly.

    No memory is taken for what the file only claims to hold.

    Raises
    ------
    ValueError
        If they do not fit each other; the message names the file.
    """
    for name, tensor in weights.items():
        ordinary = (
            isinstance(tensor, Tensor) and tensor.layout == torch.strided and tensor.device.type == "cpu"
        )
        if not ordinary or not tensor.is_floating_point():
            raise ValueError(f"{path}: {name!r} is not an ordinary floating-point tensor")
    if sum(tensor.numel() * tensor.element_size() for tensor in weights.values()) > path.stat().st_size:
        raise ValueError(f"{path} is refused: its tensors repeat themselves and are larger than the file")
    own = {
        name: tensor.to(torch.float32).clone(memory_format=torch.contiguous_format)
        for name, tensor in weights.items()
    }
    try:
        model.load_state_dict(own, assign=True)
    except RuntimeError as error:
        reasons = [line.strip() for line in str(error).splitlines()[1:]]
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        raise ValueError(
            f"{path} does not fit the architecture: {reasons[0] if reasons else error}{more}"
        ) from None
    return model


def infer_config(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read the architecture off a state dict: all but `dropout` and `num_heads`, which leave no trace in it.

    Raises
    ------
    ValueError
        If these are not the weights of a DiffusionUNet.
    """
    try:
        base_ch, in_ch = weights["init.weight"].shape[:2]
        levels = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("down_blocks."))
        widths = [weights[f"down_blocks.{level}.0.conv1.weight"].shape[0] for level in range(levels)]
        time_dim = weights["time_mlp.0.weight"].shape[1]
    except KeyError as error:
        raise ValueError(f"no weights of a DiffusionUNet: {error} is missing") from None
    except (ValueError, IndexError):
        raise ValueError("no weights of a DiffusionUNet: its keys or shapes are others") from None
    if base_ch < 1 or any(width % base_ch for width in widths):
        raise ValueError(f"no weights of a DiffusionUNet: levels of {widths} channels over {base_ch}")
    return {
        "in_ch": in_ch,
        "base_ch": base_ch,
        "channel_mults": tuple(width // base_ch for width in widths),
        "time_dim": time_dim,
        "attn_levels": tuple(i for i in range(levels) if f"down_blocks.{i}.2.attn.in_proj_weight" in weights),
    }


def _about(described: Mapping[str, Any]) -> dict[str, Any]:
    """Collect what a checkpoint says of the run beyond the weights: the course's part, then ours."""
    about: dict[str, Any] = {}
    config = described.get("config")
    if isinstance(config, Mapping) and "num_diffusion_steps" in config:
        about["steps"] = checks.integer("num_diffusion_steps", config["num_diffusion_steps"], 1, MAX_STEPS)
    own = described.get(OWN)
    if isinstance(own, Mapping):
        if own.get("objective") is not None:
            about["objective"] = checks.choice("objective", own["objective"], OBJECTIVES)
        if own.get("betas") is not None:
            about["betas"] = checks.schedule("betas", own["betas"])
        if own.get("image_size") is not None:
            about["image_size"] = checks.pair("image_size", own["image_size"], MAX_SIDE)
        about["num_heads"] = (own.get("model") or {}).get("num_heads")
    return about


def read_weights_only(path: Path) -> Mapping[str, Any]:
    """Read a `torch.save` file as tensors and plain containers, never running what a pickle asks for.

    Raises
    ------
    ValueError
        If it is damaged, holds anything else, or is no dict.
    """
    try:
        content = checkpoint.load(existing(path))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as weights: {error}") from None
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a state dict")
    return content


def existing(path: Path) -> Path:
    """Return `path` if there is such a file."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    return path
