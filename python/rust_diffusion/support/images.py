"""The forms in which people have images, as one tensor."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from rust_diffusion import _native
from rust_diffusion.support import checks

_TAKES = (
    "a tensor or array (N, C, H, W), uint8 levels (N, H, W, C), or a list of (C, H, W), (H, W) or PIL images"
)
_HOLDS = "floating-point images in [-1, 1] or uint8 grey levels"
_SCALED = "as floats scale them: 2 * (x - low) / (high - low) - 1"
#: Modes of Pillow that are one grey channel of eight bits, and those whose values no eight bits hold.
_GREY_MODES, _DEEP_MODES = ("1", "L", "LA", "La"), ("I", "F")


def as_images(value: Any, name: str = "images", indices: Sequence[int] | None = None) -> Tensor:
    """Take images in whatever form people have them.

    Parameters
    ----------
    value : Tensor, array, PIL image or list of them
        (N, C, H, W), floating in [-1, 1] or uint8 grey levels; uint8 may be (N, H, W, C) with C 1, 3 or 4. Or a
        list of images of one size: PIL images, (C, H, W), (H, W), and uint8 (H, W, C). Alpha is dropped.
    name : str
        What messages call it.
    indices : sequence of int, optional
        And the entries of a list, where they have been chosen out of more.

    Returns
    -------
    Tensor
        (N, C, H, W) of the dtype that was given, in the memory that was given where one tensor or array was.

    Raises
    ------
    ValueError, TypeError
        If it is in none of the forms, or the images of a list differ in size or kind.
    """
    if isinstance(value, Image):
        value = [value]
    if not isinstance(value, (list, tuple)):
        images = _channels_first(shared(name, value))
        if images.ndim != 4:
            raise ValueError(f"{name} must be {_TAKES}, got shape {tuple(images.shape)}")
        return checked_dtype(name, images)
    if not value:
        raise ValueError(f"{name} is an empty list")
    names = [f"{name}[{k}]" for k in (indices or range(len(value)))]
    found = [_one(*named) for named in zip(names, value, strict=True)]
    return checked_dtype(name, _stacked(name, found, names))


def is_list_of_images(value: Any) -> bool:
    """Tell whether `value` is a list of single images, not of batches."""
    if not isinstance(value, (list, tuple)) or not value:
        return False
    first = value[0]
    return isinstance(first, Image) or (isinstance(first, (Tensor, np.ndarray)) and first.ndim in (2, 3))


def as_values(images: Tensor) -> Tensor:
    """Grey levels, or floating values, as float32 values in [-1, 1]."""
    return _native.grey_values(images) if images.dtype == torch.uint8 else images.float()


def shared(name: str, value: Any) -> Tensor:
    """A tensor or array as a tensor, in the same memory where that can be had."""
    if not isinstance(value, np.ndarray):
        return checks.tensor(name, value)
    if any(stride < 0 for stride in value.strides):
        value = np.ascontiguousarray(value)
    if value.flags.writeable:
        return _from_numpy(name, value)
    with warnings.catch_warnings():
        # torch warns of arrays that must not be written to; nothing here writes.
        warnings.simplefilter("ignore", UserWarning)
        return _from_numpy(name, value)


def _from_numpy(name: str, array: np.ndarray[Any, Any]) -> Tensor:
    try:
        return torch.from_numpy(array)
    except TypeError:
        raise TypeError(f"{name} must be {_HOLDS}, got an array of {array.dtype}; {_SCALED}") from None


def checked_dtype(name: str, images: Tensor) -> Tensor:
    """`images`, if they are floating or uint8."""
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"{name} must be {_HOLDS}, got {images.dtype}; {_SCALED}")
    return images


def _channels_first(images: Tensor) -> Tensor:
    """(..., C, H, W) of what may be uint8 with the channels last; alpha is dropped."""
    channels = (1, 3, 4)
    last = images.dtype == torch.uint8 and images.ndim >= 3 and images.shape[-1] in channels
    if not last or images.shape[-3] in channels:
        return images
    return images[..., :3].movedim(-1, -3)


def _one(name: str, image: Any) -> Tensor:
    """One image, (C, H, W)."""
    if isinstance(image, Image):
        return _from_pillow(name, image)
    tensor = shared(name, image)
    if tensor.ndim == 2:
        return tensor[None]
    if tensor.ndim != 3:
        raise ValueError(f"{name} must be (C, H, W), (H, W) or a PIL image, got shape {tuple(tensor.shape)}")
    return _channels_first(tensor)


def _from_pillow(name: str, image: Image) -> Tensor:
    if image.mode.startswith(_DEEP_MODES):
        raise ValueError(
            f"{name} is a PIL image of mode {image.mode}, whose levels have no common range: load_images reads "
            f"16-bit files, or give arrays in [-1, 1]"
        )
    levels = shared(name, np.asarray(image.convert("L" if image.mode in _GREY_MODES else "RGB")))
    return levels[None] if levels.ndim == 2 else levels.movedim(-1, 0)


def _stacked(name: str, images: Sequence[Tensor], names: Sequence[str]) -> Tensor:
    first = images[0]
    for k, image in enumerate(images):
        if image.shape != first.shape or image.dtype != first.dtype or image.device != first.device:
            raise ValueError(
                f"{name} must hold images of one size and kind: {names[k]} is {_described(image)}, "
                f"{names[0]} is {_described(first)} (load_images(size=) brings files to one size)"
            )
    return torch.stack(list(images))


def _described(image: Tensor) -> str:
    channels, height, width = image.shape
    return f"{height} x {width} with {channels} channels, {image.dtype} on {image.device}"
