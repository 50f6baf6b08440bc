"""Recipes: which network, and how to train it, as plain data. What was tried for them is in docs/recipes.md."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rust_diffusion.model.card import COURSE_SIZE, COURSE_STEPS, SCHEDULES
from rust_diffusion.model.network import DEFAULT_SAMPLER
from rust_diffusion.sampling.sampler import SAMPLERS, usual_steps
from rust_diffusion.support import checks
from rust_diffusion.support.warning import warn

#: Attention looks at all pairs of positions: it pays where an image is at most this high and wide.
_ATTENTION_SIDE = 16
#: The coarsest level is no smaller.
_COARSEST = 8
#: Levels at most; sides that are multiples of this have all of them, or as many as `_COARSEST` lets them.
_MOST_LEVELS = 4
_EASY = 2 ** (_MOST_LEVELS - 1)
#: Width of the first level for a budget: (minutes up to which it is taken, width).
_WIDTHS = ((45.0, 16), (float("inf"), 32))


@dataclass
class Recipe:
    """A network and its training. All is plain data, to be printed and changed before it is used.

    ``DiffusionUNet(**recipe.network)``, ``train(model, data, betas=recipe.betas, **recipe.training)``,
    ``model.sample(8, **recipe.sampling)``.
    """

    name: str
    #: Keywords of `DiffusionUNet`.
    network: dict[str, Any]
    #: Keywords of `train`, but for model, data and betas.
    training: dict[str, Any]
    #: Keywords of `DiffusionUNet.sample`.
    sampling: dict[str, Any]
    #: The noise schedule, "cosine" or "linear", and T.
    schedule: str = "cosine"
    num_steps: int = COURSE_STEPS

    @property
    def betas(self) -> Tensor:
        """The noise schedule, (num_steps,)."""
        return SCHEDULES[checks.choice("schedule", self.schedule, tuple(SCHEDULES))](self.num_steps)

    def __str__(self) -> str:
        parts = {"network": self.network, "training": self.training, "sampling": self.sampling}
        lines = [f"Recipe {self.name!r}: {self.schedule} schedule, T = {self.num_steps}"]
        for what, keywords in parts.items():
            lines += [f"  {what}:", *(f"    {name}={value!r}" for name, value in keywords.items())]
        return "\n".join(lines)


def recipe(
    name: str = "minutes", *, size: int | tuple[int, int] = COURSE_SIZE, minutes: float = 10.0
) -> Recipe:
    """Make a recipe for images of a size and a time to train in.

    Parameters
    ----------
    name : {"minutes", "demo", "course"}
        "minutes": for a time on two cores. "demo": the demonstration's, 20 epochs whatever the time. "course": the
        course's own network and numbers, for a night, or a GPU; `size` and `minutes` do not change it.
    size : int or (int, int)
        Height and width of the images.
    minutes : float
        The time that training may take. It goes into ``training["minutes"]`` and decides how large the network is.

    Returns
    -------
    Recipe
        A new one each time: change what you like.

    Raises
    ------
    ValueError, TypeError
        If there is no such recipe, or another argument cannot be used.

    Examples
    --------
    >>> import rust_diffusion as rd
    >>> recipe = rd.recipe(size=64, minutes=10)
    >>> recipe.network["base_ch"], recipe.training["objective"], recipe.training["minutes"]
    (16, 'flow', 10.0)
    """
    if isinstance(name, (int, tuple)):
        raise TypeError(
            f"name must be one of {', '.join(map(repr, RECIPES))}, got {name!r}: is it size={name!r}?"
        )
    make = RECIPES[checks.choice("name", name, tuple(RECIPES))]
    sides = checks.pair("size", size)
    minutes = checks.number("minutes", minutes, 0.0)
    if minutes == 0.0:
        raise ValueError(f"minutes must be above 0, got {minutes}")
    return make(sides, minutes)


def _minutes(sides: tuple[int, int], minutes: float) -> Recipe:
    mults = _mults(sides)
    _warn_of_odd_sides(sides, len(mults))
    width = next(width for most, width in _WIDTHS if minutes <= most)
    attended = [level for level in range(len(mults)) if max(sides) >> level <= _ATTENTION_SIDE]
    return Recipe(
        name="minutes",
        network={
            "base_ch": width,
            "channel_mults": mults,
            "attn_levels": tuple(attended),
            "time_dim": 128,
            "dropout": 0.0,
        },
        training={
            "minutes": float(minutes),
            "batch_size": 16,
            "learning_rate": 2e-3,
            "lr_schedule": "smooth_cosine",
            "warmup_steps": 50,
            # Follows the run, however long: at update n it forgets what is older than a tenth of n.
            "ema_decay": 0.9995,
            "ema_warmup": True,
            # Straight paths, with more of little noise: texture comes twice as near as with "v", and "eps" needs many
            # more updates for the grey of large areas alone.
            "objective": "flow",
            "time_sampling": "log_normal",
            # What all of this was measured in; on a GPU a network so small takes as long in bfloat16.
            "precision": "fp32",
        },
        sampling={"sampler": DEFAULT_SAMPLER, "sample_steps": usual_steps(SAMPLERS[DEFAULT_SAMPLER])},
        # Fewer than the course's, so that DDPM, which takes every one, stays quick.
        num_steps=200,
    )


def _mults(sides: tuple[int, int]) -> tuple[int, ...]:
    """Widths of the levels, in those of the first: as many levels as the sides can be halved."""
    mults = [1]
    while len(mults) < _MOST_LEVELS and all(
        s % 2 ** len(mults) == 0 and s >> len(mults) >= _COARSEST for s in sides
    ):
        mults.append(min(2 ** len(mults), 4))
    return tuple(mults)


def _warn_of_odd_sides(sides: tuple[int, int], levels: int) -> None:
    """Say what sides cost that cannot be halved often: the middle attends to all pairs of positions."""
    last = max(sides) >> (levels - 1)
    if levels == _MOST_LEVELS or last <= 2 * _ATTENTION_SIDE:
        return
    positions = math.prod(side >> (levels - 1) for side in sides)
    better = tuple(max(_EASY * round(side / _EASY), _COARSEST) for side in sides)
    warn(
        f"size={sides} gives a network of {levels} of {_MOST_LEVELS} levels, as sides must be halved from one to the "
        f"next: the attention in its middle is over {positions:,} positions, and an update takes many times as long "
        f"as with size={better}"
    )


_COURSE = Recipe(
    name="course",
    network={
        "base_ch": 64,
        "channel_mults": (1, 2, 4),
        "attn_levels": (1, 2),
        "time_dim": 256,
        "num_heads": 4,
        # the notebook's; the class alone says 0.1
        "dropout": 0.05,
    },
    training={
        "epochs": 60,
        "batch_size": 32,
        "learning_rate": 2e-4,
        "weight_decay": 1e-4,
        "ema_decay": 0.9995,
        "grad_clip": 1.0,
        "objective": "eps",
    },
    sampling={"sampler": "ddim", "sample_steps": 50},
)


def _course(sides: tuple[int, int], minutes: float) -> Recipe:
    del sides, minutes
    return copy.deepcopy(_COURSE)


def _demo(sides: tuple[int, int], minutes: float) -> Recipe:
    """What the demonstration trains: of a fixed length, so that every machine draws the same."""
    made = _minutes(sides, minutes)
    made.name = "demo"
    made.network["base_ch"] = _WIDTHS[0][1]
    same = ("batch_size", "learning_rate", "objective", "time_sampling")
    made.training = {
        "epochs": 20,
        **{name: made.training[name] for name in same},
        "ema_decay": 0.99,
    }
    return made


RECIPES: dict[str, Callable[[tuple[int, int], float], Recipe]] = {
    "minutes": _minutes,
    "demo": _demo,
    "course": _course,
}
