"""JSON, safetensors and torch files: read with the file named in every error, written whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from rust_diffusion.files import atomic, checkpoint


def existing(path: Path) -> Path:
    """Return `path` if there is such a file."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    return path


def read_json(path: Path) -> Any:
    """Read a JSON file; ValueError if it is none."""
    try:
        return json.loads(existing(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, and endless nesting, too
        raise ValueError(f"{path} is not JSON: {error}") from None


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object; ValueError if it holds none."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold an object, got {type(values).__name__}")
    return values


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write `values` for people to read."""
    with atomic.replacing(path) as file:
        file.write(f"{json.dumps(values, indent=2)}\n".encode())


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; ValueError if it is damaged."""
    try:
        return load_file(existing(path))
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from None


def write_safetensors(path: Path, model: nn.Module) -> bytes:
    """Write the weights of `model`; return what was written."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    content = to_safetensors(weights, metadata={"format": "pt"})
    with atomic.replacing(path) as file:
        file.write(content)
    return content


def read_torch(path: Path, lazily: bool = False) -> Mapping[str, Any]:
    """Read a `torch.save` file as tensors and plain containers, never running what a pickle asks for.

    Raises
    ------
    ValueError
        If it is damaged, holds anything else, or is no dict.
    """
    try:
        content = checkpoint.load(existing(path), lazily=lazily)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as weights: {error}") from None
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a state dict")
    return content
