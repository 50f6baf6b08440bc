"""The keywords of `train` that are plain values, checked; messages name the keyword, what it got and what it takes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from rust_diffusion import _native
from rust_diffusion.model.card import OBJECTIVES
from rust_diffusion.support import checks

PRECISIONS = ("auto", *_native.PRECISIONS)
LR_SCHEDULES = _native.LR_SCHEDULES
#: Those of them that are stepped with the epochs, and those that rise over the first updates.
FALLING_BY_EPOCHS = ("cosine", "warmup_cosine")
RISING_AT_FIRST = ("warmup_cosine", "smooth_cosine")
TIME_SAMPLINGS = _native.TIME_SAMPLINGS

#: What a checkpoint keeps beside the keys of the course's, so that a resumed run can tell what was changed.
KEPT = (
    "batch_size",
    "accumulate",
    "lr_schedule",
    "warmup_steps",
    "ema_warmup",
    "horizontal_flip",
    "precision",
    "seed",
)

#: How long a run is if nobody says.
EPOCHS = 60

_NAME_BYTES = 200
_OF_RAW = "_raw"


def _norm_limit(name: str, value: Any) -> float:
    """A number above 0, or infinity for no limit."""
    return math.inf if isinstance(value, float) and value == math.inf else _positive(name, value)


def _positive(name: str, value: Any) -> float:
    """A finite number above 0."""
    number = checks.number(name, value)
    if number <= 0.0:
        raise ValueError(f"{name} must be above 0, got {number}")
    return number


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, got {type(value).__name__}")
    return value


def _file_name(name: str, value: Any) -> str:
    """A plain file name."""
    value = _text(name, value)
    if not value or Path(value).name != value or "\0" in value:
        raise ValueError(f"{name} must be the first part of a file name, got {value!r}")
    if value.endswith(_OF_RAW):
        raise ValueError(
            f"{name} must not end in {_OF_RAW!r}, as files of weights that are not averaged do, got {value!r}"
        )
    # A file system takes 255 bytes, and what is added for the files while they are written is some thirty.
    if len(os.fsencode(value)) > _NAME_BYTES:
        raise ValueError(f"{name} must have at most {_NAME_BYTES} bytes, got {len(os.fsencode(value))}")
    return value


def _checked(check: Callable[..., Any], *bounds: Any) -> Any:
    return field(metadata={"check": check, "bounds": bounds})


def _or_none(check: Callable[..., Any], *bounds: Any) -> Any:
    return _checked(lambda name, value, *b: None if value is None else check(name, value, *b), *bounds)


@dataclass(kw_only=True)
class Settings:
    """How to train, as `train` documents it; the engine reads those it knows by the same names."""

    epochs: int = _checked(checks.integer, 1)
    minutes: float | None = _or_none(_positive)
    batch_size: int = _checked(checks.integer, 1)
    learning_rate: float = _checked(checks.number, 0.0)
    lr_schedule: str = _checked(checks.choice, LR_SCHEDULES)
    warmup_steps: int = _checked(checks.integer, 0)
    weight_decay: float = _checked(checks.number, 0.0)
    grad_clip: float = _checked(_norm_limit)
    ema_decay: float = _checked(checks.number, 0.0, 1.0)
    ema_warmup: bool = _checked(checks.flag)
    precision: str = _checked(checks.choice, PRECISIONS)
    objective: str = _checked(checks.choice, OBJECTIVES)
    time_sampling: str = _checked(checks.choice, TIME_SAMPLINGS)
    min_snr_gamma: float | None = _or_none(_positive)
    accumulate: int = _checked(checks.integer, 1)
    horizontal_flip: bool = _checked(checks.flag)
    max_steps: int | None = _or_none(checks.integer, 1)
    sample_every: int | None = _or_none(checks.integer, 1)
    key: str | None = _or_none(_text)
    seed: int | None = _or_none(checks.integer, -(2**63), 2**64 - 1)
    name: str = _checked(_file_name)
    force_restart: bool = _checked(checks.flag)
    progress: bool = _checked(checks.flag)
    deterministic: bool = _checked(checks.flag)

    def __post_init__(self) -> None:
        for known in fields(self):
            check, bounds = known.metadata["check"], known.metadata["bounds"]
            setattr(self, known.name, check(known.name, getattr(self, known.name), *bounds))
        if self.minutes is not None and self.epochs != EPOCHS:
            raise ValueError(
                f"give epochs or minutes, not both: got epochs={self.epochs} and minutes={self.minutes:g}"
            )

    @classmethod
    def among(cls, keywords: Mapping[str, Any]) -> Settings:
        """Check those of `keywords` that are settings."""
        return cls(**{known.name: keywords[known.name] for known in fields(cls)})

    def pick_precision(self, device: torch.device) -> None:
        """Replace "auto" by the fastest that is safe on the device."""
        if self.precision != "auto":
            return
        if device.type != "cuda":
            self.precision = "fp32"
        else:
            self.precision = "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"

    def updates_in(self, batches: int) -> int:
        """How many updates the batches of an epoch make; the last may have fewer batches than the others."""
        return -(-batches // self.accumulate)

    @property
    def of_the_run(self) -> dict[str, Any]:
        """Those that a run is to go on with, for its checkpoint."""
        return {name: getattr(self, name) for name in KEPT}

    def for_engine(self, **more: Any) -> dict[str, Any]:
        """What the engine reads, with what only the run knows."""
        return {**asdict(self), **more}
