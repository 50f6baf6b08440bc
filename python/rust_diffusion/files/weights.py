"""Bare weights: state dicts and checkpoints, the course's too; the architecture is read off their shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rust_diffusion.files import checkpoint
from rust_diffusion.files.checkpoint import OWN
from rust_diffusion.files.content import read_torch
from rust_diffusion.model.card import COURSE_SIZE, COURSE_STEPS, MAX_STEPS, SCHEDULES, ModelCard, card_of
from rust_diffusion.model.network import Network
from rust_diffusion.model.unet import DiffusionUNet
from rust_diffusion.model.unet2d import UNet2DModel
from rust_diffusion.support import checks

#: A weight of every `UNet2DModel`, whose architecture its shapes do not tell.
_OF_DIFFUSERS = "conv_in.weight"


@dataclass(frozen=True)
class Description:
    """What a file says of a model, its weights aside."""

    #: The file that says so.
    path: Path
    #: The arguments of the network's class.
    config: dict[str, Any]
    card: ModelCard
    network: type[Network] = DiffusionUNet

    def plan(self) -> Network:
        """Make the network, without memory for its weights; no random number is drawn.

        Raises
        ------
        ValueError
            If there is no such network; the message names the file.
        """
        try:
            with torch.device("meta"):
                model = self.network(**self.config)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{self.path} does not describe a {self.network.__name__}: {error}") from None
        model.card = self.card
        return model


def save(model: nn.Module, path: Path) -> None:
    """Write a bare state dict, as `torch.save(model.state_dict(), path)` does, with the card where nobody minds it.

    torch keeps a dict of the modules' versions beside the weights (`_metadata`), in the file too; our entry in it is
    looked at by nobody but `read`.
    """
    state: Any = model.state_dict()
    card = card_of(model)
    if card is not None and hasattr(state, "_metadata"):
        config = model.config if isinstance(model, Network) else None
        state._metadata[OWN] = {"model": config, **card.to_dict()}
    checkpoint.save(state, path)


def read(path: Path, num_heads: int | None = None) -> Network:
    """Load a `.pth` state dict or a `.ckpt`'s EMA weights."""
    weights, described = _read(path, num_heads)
    return fill(described.plan(), weights, path).eval()


def describe(path: Path, num_heads: int | None = None) -> Description:
    """What `read` would find, with the weights left in the file."""
    return _read(path, num_heads, lazily=True)[1]


def _read(
    path: Path, num_heads: int | None, lazily: bool = False
) -> tuple[Mapping[str, Tensor], Description]:
    content = read_torch(path, lazily)
    about_from, said = _said(path, content, lazily)
    try:
        card = _card(said)
        told = dict((said.get(OWN) or {}).get("model") or {})
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{about_from}: {error}") from None
    try:
        weights = content["ema"]["shadow"] if "ema" in content else content
        network = UNet2DModel if _OF_DIFFUSERS in weights else DiffusionUNet
        if network is UNet2DModel and not told:
            raise ValueError(
                "these are weights of a UNet2DModel, whose architecture cannot be read off a bare state dict: load the "
                "folder with its config.json, or a checkpoint of train"
            )
        config = told if network is UNet2DModel else infer_config(weights)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise ValueError(f"{path}: {error}") from None
    config.update({name: told[name] for name in ("num_heads", "dropout") if told.get(name) is not None})
    if num_heads is not None:
        config["num_heads"] = num_heads
    return weights, Description(path, config, card, network)


def _said(path: Path, content: Mapping[str, Any], lazily: bool) -> tuple[Path, Mapping[str, Any]]:
    """What is said of the weights in `path`, and where: in a checkpoint, with bare weights, or in the one beside."""
    if "ema" in content:
        return path, content
    own = said_with(content)
    if own is not None:
        return path, {OWN: own}
    beside = path.with_name(path.stem.removesuffix("_raw") + ".ckpt")
    said = dict(read_torch(beside, lazily)) if beside.is_file() else {}
    if isinstance(said.get(OWN), Mapping):
        # of the last epoch's averages, and these are another's
        said[OWN] = {
            key: value for key, value in said[OWN].items() if key not in ("initial_share", "position")
        }
    return beside, said


def said_with(content: Any) -> Mapping[str, Any] | None:
    """What `save` left beside bare weights; None where another program wrote them."""
    metadata = getattr(content, "_metadata", None)
    own = metadata.get(OWN) if isinstance(metadata, Mapping) else None
    return own if isinstance(own, Mapping) else None


def _card(said: Mapping[str, Any]) -> ModelCard:
    """Make a card of what a checkpoint has: our part, else the course's, else what the course does."""
    own = dict(said.get(OWN) or {})
    position = own.get("position")
    if isinstance(position, Mapping):  # version 0.1.0 kept it there
        own.setdefault("initial_share", position.get("initial_share"))
    if isinstance(own.get("torch"), str):
        own.setdefault("trained_with", f"torch {own['torch']}")
    card = ModelCard.from_dict(own)
    config = said.get("config")
    if card.betas is None:
        steps = COURSE_STEPS
        if isinstance(config, Mapping) and "num_diffusion_steps" in config:
            steps = checks.integer("num_diffusion_steps", config["num_diffusion_steps"], 1, MAX_STEPS)
        card.assume(betas=SCHEDULES["cosine"](steps))
    if card.image_size is None:
        card.assume(image_size=(COURSE_SIZE, COURSE_SIZE))
    return card


def fill(model: Network, weights: Mapping[str, Tensor], path: Path) -> Network:
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
