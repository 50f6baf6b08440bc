"""Checks of plain arguments; the messages name the argument, what it got and what it takes."""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from rust_diffusion.support.warning import first_line

# What fits the 64-bit integers on the other side of the line.
_INT64 = 2**63


def integer(name: str, value: Any, low: int | None = None, high: int | None = None) -> int:
    """`value` as an int between `low` and `high` (both included); a bool is not taken for one."""
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {_describe(value)}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {_describe(value)}") from None
    low, high = -_INT64 if low is None else low, _INT64 - 1 if high is None else high
    if not low <= number <= high:
        unbounded = high == _INT64 - 1 and number < low
        takes = f"at least {low}" if unbounded else f"between {low} and {high}"
        raise ValueError(f"{name} must be {takes}, got {number}")
    return number


def flag(name: str, value: Any) -> bool:
    """`value` as a bool; text and numbers are not taken for one."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise TypeError(f"{name} must be True or False, got {_describe(value)}")


def number(name: str, value: Any, low: float | None = None, high: float | None = None) -> float:
    """`value` as a finite float between `low` and `high` (both included); neither text nor a bool is taken for one."""
    if isinstance(value, (str, bytes, bool, np.bool_)):
        raise TypeError(f"{name} must be a number, got {_describe(value)}")
    try:
        result = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise TypeError(f"{name} must be a number, got {_describe(value)}") from None
    if not math.isfinite(result):
        raise ValueError(f"{name} must be a finite number, got {result}")
    if (low is not None and result < low) or (high is not None and result > high):
        if low is not None and high is not None:
            takes = f"between {low} and {high}"
        else:
            takes = f"at least {low}" if high is None else f"at most {high}"
        raise ValueError(f"{name} must be {takes}, got {result}")
    return result


def integers(name: str, values: Any, low: int | None = None, high: int | None = None) -> list[int]:
    """`values` as a list of ints."""
    found = _items(name, values, "integers")
    return [integer(f"{name}[{i}]", value, low, high) for i, value in enumerate(found)]


def numbers(name: str, values: Any, low: float | None = None, high: float | None = None) -> list[float]:
    """`values` as a list of finite floats."""
    found = _items(name, values, "numbers")
    return [number(f"{name}[{i}]", value, low, high) for i, value in enumerate(found)]


def _items(name: str, values: Any, kind: str) -> list[Any]:
    try:
        return list(values)
    except TypeError:
        raise TypeError(f"{name} must be a sequence of {kind}, got {_describe(values)}") from None


def pair(name: str, value: Any, high: int | None = None) -> tuple[int, int]:
    """`value` as (height, width); one number stands for both."""
    if not isinstance(value, bool):
        with contextlib.suppress(TypeError):
            side = integer(name, value, 1, high)
            return side, side
    if isinstance(value, str) or not hasattr(value, "__len__"):
        raise TypeError(f"{name} must be an integer or (height, width), got {_describe(value)}")
    sides = integers(name, value, 1, high)
    if len(sides) != 2:
        raise ValueError(f"{name} must be an integer or (height, width), got {value!r}")
    return sides[0], sides[1]


def tensor(name: str, value: Any, dtype: torch.dtype | None = None) -> torch.Tensor:
    """`torch.as_tensor(value, dtype=dtype)`; an object that only says it is a tensor would bring torch down."""
    wrong = TypeError(f"{name} must be a torch.Tensor or a NumPy array, got {type(value).__name__}")
    if isinstance(value, torch.Tensor) and not issubclass(type(value), torch.Tensor):
        raise wrong
    if isinstance(value, np.ndarray) and any(stride < 0 for stride in value.strides):
        value = value.copy()  # one that runs backwards, a flipped image for one, no tensor can share
    if dtype is not None and not dtype.is_complex:
        _refuse_complex(name, value)
    try:
        return torch.as_tensor(value, dtype=dtype)
    except (TypeError, ValueError, RuntimeError):
        raise wrong from None


def real(name: str, value: Any) -> torch.Tensor:
    """`value` as a tensor of real numbers, whatever their dtype: what is imaginary would be lost later on."""
    made = tensor(name, value)
    _refuse_complex(name, made)
    return made


def _refuse_complex(name: str, value: Any) -> None:
    of_tensor = isinstance(value, torch.Tensor) and value.is_complex()
    if of_tensor or (isinstance(value, np.ndarray) and np.iscomplexobj(value)):
        raise TypeError(f"{name} must hold real numbers, got {value.dtype}")


def finite(name: str, value: torch.Tensor) -> torch.Tensor:
    """`value` without NaN and infinity."""
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return value


def schedule(name: str, value: Any) -> torch.Tensor:
    """`value` as betas: float32 on the CPU, (T,), between 0 and 1."""
    vector = tensor(name, value, torch.float32).detach().cpu()
    if vector.ndim != 1 or len(vector) < 1:
        raise ValueError(f"{name} must have shape (T,) with T >= 1, got {tuple(vector.shape)}")
    if not bool(((vector > 0) & (vector < 1)).all()):
        raise ValueError(f"{name} must lie between 0 and 1, both excluded")
    return vector


def alpha_bars(name: str, value: Any) -> torch.Tensor:
    """`value` as running products of 1 - betas: floating point, (T,), in (0, 1], nowhere rising; left where it is."""
    vector = tensor(name, value)
    if vector.ndim != 1 or len(vector) < 1:
        raise ValueError(f"{name} must have shape (T,) with T >= 1, got {tuple(vector.shape)}")
    if not vector.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, got {vector.dtype}")
    values = finite(name, vector.detach().to("cpu", torch.float32))
    low, high = float(values.min()), float(values.max())
    if low <= 0.0 or high > 1.0:
        raise ValueError(f"{name} must lie in (0, 1], got values from {low:g} to {high:g}")
    rises = (values.diff() > 0).nonzero()
    if len(rises):
        k = int(rises[0])
        raise ValueError(
            f"{name} must not rise with the timestep, got {float(values[k]):g} at {k} and {float(values[k + 1]):g} at "
            f"{k + 1}: it is torch.cumprod(1 - betas, dim=0), from little noise to much"
        )
    return vector


def device(name: str, value: Any) -> torch.device:
    """`value` as a device that exists here, with its index (so that it compares equal to a tensor's device)."""
    try:
        result = torch.device(value)
    except (TypeError, RuntimeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"{name} must be a device such as 'cpu' or 'cuda', got {value!r} ({first_line(error)})"
        ) from None
    if result.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"{name} must be a cpu, cuda or mps device, got {value!r}")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[result.type]:
        raise ValueError(
            f"{name} is {value!r}, but this machine has no {result.type} device that torch can use"
        )
    if result.type == "cuda":
        index = torch.cuda.current_device() if result.index is None else result.index
        if index >= torch.cuda.device_count():
            raise ValueError(
                f"{name} is {value!r}, but this machine has {torch.cuda.device_count()} CUDA devices"
            )
        return torch.device("cuda", index)
    return torch.device(result.type)


def choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """`value`, one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise (ValueError if isinstance(value, str) else TypeError)(
            f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}"
        )
    return value


def _describe(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
