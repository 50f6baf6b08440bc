"""What a model knows about itself: what it predicts, its noise schedule, its images; and how sure that is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rust_diffusion import _native
from rust_diffusion.support import checks
from rust_diffusion.support.warning import warn

#: What a network can predict.
OBJECTIVES = _native.OBJECTIVES
#: The one of them that has straight paths instead of a schedule.
FLOW = OBJECTIVES[3]
#: Noise schedules by name, made from their number of steps with their usual constants.
SCHEDULES: dict[str, Callable[[int], Tensor]] = {
    "cosine": _native.cosine_beta_schedule,
    "linear": _native.linear_beta_schedule,
}
#: What the course trains with, and what is assumed of weights that do not say.
COURSE_STEPS, COURSE_SIZE = 400, 64
#: All images are in this range, here and in the course.
VALUE_RANGE = (-1.0, 1.0)
#: What a file may ask for: a small one must not take all memory.
MAX_STEPS, MAX_SIDE = _native.MAX_STEPS, _native.MAX_SIDE
#: Averaged weights that hold more than this of the initial ones draw noise rather than images.
MAX_INITIAL_SHARE = 0.1
#: Two schedules in float32 differ by less at a timestep; another number of steps or another shape, by more.
_SAME_ALPHA_BAR = 0.01


@dataclass(eq=False, repr=False)
class ModelCard:
    """What a model knows about itself: stored in every file, read by the samplers, shown by ``repr``.

    What is set is *stated*, by `train`, by a file or by hand; what `assume` puts in is *assumed*; None is *unknown*.
    """

    #: What the network predicts: "eps", "x0", "v" or "flow"; without a word about it, "eps" is assumed.
    objective: str = ""
    #: The noise schedule it was trained with, float32 of shape (T,) on the CPU.
    betas: Tensor | None = None
    #: Height and width of the images it was trained on, in pixels.
    image_size: tuple[int, int] | None = None
    #: The smallest and the largest value of an image.
    value_range: tuple[float, ...] = ()
    #: Variance of the training images about their mean image, averaged over the pixels (see `DataVariance`).
    data_variance: float | None = None
    #: For averaged weights: the share of them that is still the random beginning, decay ** n.
    initial_share: float | None = None
    #: The versions of this package and of torch that it was trained with.
    trained_with: str | None = None
    #: Names of the fields that are assumed.
    assumed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        if not self.objective:
            self.assume(objective=OBJECTIVES[0])
        if not self.value_range:
            self.assume(value_range=VALUE_RANGE)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        self.__dict__.get("assumed", set()).discard(name)

    def assume(self, **values: Any) -> None:
        """Fill fields with what is likely."""
        for name, value in values.items():
            setattr(self, name, value)
            self.assumed.add(name)

    def certainty(self, name: str) -> str:
        """Say how sure a field is: "stated", "assumed" or "unknown"."""
        if getattr(self, name) is None:
            return "unknown"
        return "assumed" if name in self.assumed else "stated"

    def to_dict(self) -> dict[str, Any]:
        """All that is known, as tensors and plain values, for a file."""
        known = {name: getattr(self, name) for name in _FIELDS if getattr(self, name) is not None}
        return {**known, "assumed": sorted(self.assumed)}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> ModelCard:
        """Take what a file says of a model; keys that mean nothing here are left alone.

        Raises
        ------
        ValueError, TypeError
            If an entry cannot be used; the message names it.
        """
        said = {
            name: about.check(name, saved[name])
            for name, about in _FIELDS.items()
            if saved.get(name) is not None
        }
        assumed = saved.get("assumed") or ()
        if not isinstance(assumed, (list, tuple)) or not all(isinstance(name, str) for name in assumed):
            raise TypeError(f"assumed must be a list of names, got {assumed!r}")
        return cls(**said, assumed=said.keys() & set(assumed))

    def rows(self) -> list[tuple[str, str, str]]:
        """(what, value, how sure) of every field."""
        values = {name: getattr(self, name) for name in _FIELDS}
        return [
            (about.title, "" if values[name] is None else about.show(values[name]), self.certainty(name))
            for name, about in _FIELDS.items()
        ]

    def __repr__(self) -> str:
        rows = self.rows()
        first, second = (max(len(row[k]) for row in rows) for k in range(2))
        lines = (f"{title:{first}}  {value:{second}}  {certainty}" for title, value, certainty in rows)
        return "\n  ".join(["ModelCard", *lines])


class _About(NamedTuple):
    """How a field is called in the table, checked when it comes out of a file, and shown."""

    title: str
    check: Callable[[str, Any], Any]
    show: Callable[[Any], str]


def _objective(name: str, value: Any) -> str:
    return checks.choice(name, value, OBJECTIVES)


def _betas(name: str, value: Any) -> Tensor:
    betas = checks.schedule(name, value)
    checks.integer(f"number of {name}", len(betas), 1, MAX_STEPS)
    return betas


def _image_size(name: str, value: Any) -> tuple[int, int]:
    return checks.pair(name, value, MAX_SIDE)


def _value_range(name: str, value: Any) -> tuple[float, float]:
    if not isinstance(value, (list, tuple)) or tuple(value) != VALUE_RANGE:
        raise ValueError(f"{name} must be {list(VALUE_RANGE)}, got {value!r}")
    return VALUE_RANGE


def _variance(name: str, value: Any) -> float:
    return checks.number(name, value, 0.0)


def _share(name: str, value: Any) -> float:
    return checks.number(name, value, 0.0, 1.0)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise TypeError(f"{name} must be a line of text, got {type(value).__name__}")
    return value[:100]


def schedule_name(betas: Tensor) -> str | None:
    """Name the schedule, if it is one of ours with its usual constants."""
    return next((name for name, make in SCHEDULES.items() if torch.equal(make(len(betas)), betas)), None)


def _show_betas(betas: Any) -> str:
    betas = torch.as_tensor(betas, dtype=torch.float32, device="cpu")
    name = schedule_name(betas) or f"custom, {betas[0]:.3g} to {betas[-1]:.3g}"
    return f"{name}, T = {len(betas)}"


_FIELDS = {
    "objective": _About("objective", _objective, str),
    "betas": _About("schedule", _betas, _show_betas),
    "image_size": _About("image size", _image_size, lambda size: f"{size[0]} x {size[1]}"),
    "value_range": _About("value range", _value_range, lambda ends: f"{ends[0]:g} to {ends[1]:g}"),
    "data_variance": _About("data variance", _variance, lambda value: f"{value:.4g}"),
    "initial_share": _About("initial weights left", _share, lambda value: f"{100 * value:.3g} %"),
    "trained_with": _About("trained with", _text, str),
}


class Carded:
    """A module with a card, whose main fields are attributes of the module too."""

    card: ModelCard
    #: What the module was made from: the keyword arguments of its class.
    config: dict[str, Any]

    @property
    def objective(self) -> str:
        """What the network predicts: "eps", "x0", "v" or "flow". Set by `train`, read by the samplers."""
        return self.card.objective

    @objective.setter
    def objective(self, value: str) -> None:
        self.card.objective = value

    @property
    def betas(self) -> Tensor | None:
        """The noise schedule it was trained with, float32 of shape (T,) on the CPU. Set by `train`, None before."""
        return self.card.betas

    @betas.setter
    def betas(self, value: Tensor | None) -> None:
        self.card.betas = None if value is None else checks.schedule("betas", value)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width of the images it was trained on, in pixels. Set by `train`, None before."""
        return self.card.image_size

    @image_size.setter
    def image_size(self, value: tuple[int, int] | None) -> None:
        self.card.image_size = value


def card_of(model: Any) -> ModelCard | None:
    """Return the card of a model that has one."""
    card = getattr(model, "card", None)
    return card if isinstance(card, ModelCard) else None


def warn_of_initial_weights(model: Any) -> None:
    """Say once that averaged weights are still largely the random ones that training began with."""
    card = card_of(model)
    share = None if card is None else card.initial_share
    if share is not None and share > MAX_INITIAL_SHARE and not hasattr(model, "_warned_of_share"):
        model._warned_of_share = True
        warn(
            f"{100 * share:.0f} % of these averaged weights (EMA) are still the random ones that training began "
            f"with: train longer, use a smaller ema_decay or ema_warmup=True, or sample from the model itself"
        )


def warn_of_other_schedule(model: Any, questions: Sequence[tuple[float, float]]) -> None:
    """Say that a model, asked as (timestep, alpha_bar) tell, was trained with other noise at those timesteps."""
    card = card_of(model)
    if card is None or card.certainty("betas") != "stated":
        return
    assert card.betas is not None
    known = torch.cumprod(1 - card.betas.double(), 0).tolist()
    for t, alpha_bar in questions:
        trained = known[int(t)] if t < len(known) else None
        if trained is None or abs(trained - alpha_bar) > _SAME_ALPHA_BAR:
            said = f"has {len(known)} timesteps" if trained is None else f"has {trained:.3g} there"
            warn(
                f"alpha_bars are not of the schedule that the model was trained with: {alpha_bar:.3g} at timestep "
                f"{int(t)}, the model's own ({_show_betas(card.betas)}) {said}. Its own: "
                f"torch.cumprod(1 - model.betas, 0)"
            )
            return


def objective_of(model: Any) -> Any:
    """What a model says that it predicts, on its card or as an attribute; "eps" if it does not say."""
    return getattr(card_of(model) or model, "objective", OBJECTIVES[0])


def stated_objective(model: Carded) -> str | None:
    """Return what a model predicts, if that is known and not assumed."""
    return model.card.objective if model.card.certainty("objective") == "stated" else None


def schedule_of(model: Carded, betas: Any = None) -> Tensor:
    """Return `betas` if they are given, else the schedule that the model carries."""
    betas = model.betas if betas is None else betas
    if betas is None:
        raise ValueError("betas: this model does not know the schedule it was trained with; give betas=")
    return checks.schedule("betas", betas)


def size_of(model: Carded, image_size: Any = None) -> tuple[int, int]:
    """Return `image_size` if it is given, else the height and width that the model carries."""
    image_size = model.image_size if image_size is None else image_size
    if image_size is None:
        raise ValueError(
            "image_size: this model does not know the size of its images; give image_size=(H, W)"
        )
    return checks.pair("image_size", image_size)
