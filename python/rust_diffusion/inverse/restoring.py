"""What all methods of restoration share: their arguments, checked before the network is asked, and the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from rust_diffusion import _native
from rust_diffusion.inverse.operator import Operator, check_adjoint, numbers_per_image
from rust_diffusion.model.card import VALUE_RANGE, card_of
from rust_diffusion.model.ema import averaged
from rust_diffusion.model.network import Network, check_fits
from rust_diffusion.sampling.arguments import Arguments
from rust_diffusion.sampling.run import draw
from rust_diffusion.sampling.sampler import DEFAULTS, Keywords, with_keywords
from rust_diffusion.support import checks

_F = TypeVar("_F", bound=Callable[..., Tensor])

#: Every method by its name: what `posterior` and the command line choose from.
METHODS: dict[str, Callable[..., Tensor]] = {}

_TASK = """\
model : DiffusionUNet, EMA or callable
        Called as ``model(x_t, t)``; gives eps, or what `objective` says, for images in [-1, 1].
    y : Tensor or array
        Measurements, (N, C, mx, my), or (N, mx, my) of one channel.
    operator : Operator
        What measured them, for images in [-1, 1] (see `Operator.on_unit_range`).
    alpha_bars : Tensor
        The schedule, shape (T,).
    device : str or torch.device
        Where to compute; the model must be there.
    sample_steps : int
        Between 1 and T."""
_SIGMA = """\
sigma_y : float or Tensor
        Standard deviation of the measurements' noise: one number, or one per measurement, (N,)."""
_RESULT = """\
Returns
    -------
    Tensor
        One reconstruction per measurement, (N, C, H, W), float32, in [-1, 1] (if `clip`). The callback is told the
        residual ``|K x0_hat - y|^2 / (m sigma_y^2)`` of each image too."""


class ReconstructionStep(NamedTuple):
    """What the callback of a method is told after each step."""

    #: From 0 to ``total - 1``.
    index: int  # type: ignore[assignment]
    total: int
    #: The timestep at which the model was asked.
    timestep: float
    #: The next iterate, (N, C, H, W).
    x: Tensor
    #: The clean image that the step took for granted, corrected by the measurement.
    x0_hat: Tensor
    #: ``|K x0_hat - y|^2 / (m sigma_y^2)`` of each image, (N,), float64: about 1 where it explains the measurement.
    residual: Tensor


def method(function: _F) -> _F:
    """Register ``{name}_sample`` under its name; its docstring and signature get what all methods share."""
    METHODS[function.__name__.removesuffix("_sample")] = function
    if function.__doc__ is not None:
        for name, text in (("{task}", _TASK), ("{sigma}", _SIGMA), ("{result}", _RESULT)):
            function.__doc__ = function.__doc__.replace(name, text)
    return with_keywords()(function)


class Task:
    """A measurement and its operator, checked; nothing has been computed yet."""

    def __init__(
        self, model: Any, y: Any, operator: Any, sigma_y: Any, device: Any, *, noiseless: bool = False
    ) -> None:
        if not isinstance(operator, Operator):
            raise TypeError(f"operator must be an Operator, got {type(operator).__name__}")
        self.model = averaged(model)
        self.operator = operator
        self.y = operator._linear(_measurements(y, operator, checks.device("device", device)))
        self.sigma = _noise_level(sigma_y, self.y, noiseless)
        channels = [self.y.shape[1]] if len(operator.img_shape) == 2 else []
        self.image_shape = (*channels, *operator.img_shape)
        check_model(self.model, self.image_shape, "operator and y are for images of")
        check_adjoint(operator, "operator: its adjoint is none", self.y)

    def restore(
        self, name: str, table: _native.Table, how: _native.Method, device: Any, keywords: Keywords
    ) -> Tensor:
        """One reconstruction per measurement, along a table with a method in it."""
        callback = keywords.get("callback", DEFAULTS["callback"])
        if callback is not None and callable(callback):
            keywords = {**keywords, "callback": self._with_residual(callback)}
        run = Arguments(self.model, len(self.y), self.image_shape, device, keywords, f"{name}_sample")
        return draw(name.upper(), table, run, _native.restore, how, self.operator._core, self.y, self.sigma)

    def _with_residual(self, callback: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def told(step: Any) -> Any:
            index, total, timestep, x, x0_hat = step
            return callback(ReconstructionStep(index, total, timestep, x, x0_hat, self.residual(x0_hat)))

        return told

    def residual(self, x0: Tensor) -> Tensor:
        """``|K x0 - y|^2 / (m sigma_y^2)`` of each image."""
        return _native.residual(self.operator._core, x0, self.y, self.sigma)


def refuse_inference_mode(name: str) -> None:
    """Methods that differentiate the network need what inference mode takes away."""
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            f"{name}_sample differentiates the model, which torch.inference_mode() forbids: "
            f"call it under torch.no_grad(), or under neither"
        )


def _measurements(y: Any, operator: Operator, device: torch.device) -> Tensor:
    y = checks.tensor("y", y).detach()
    if not y.is_floating_point():
        raise TypeError(f"y must be a floating-point tensor, got {y.dtype}")
    out = tuple(operator.out_shape)
    if y.ndim == 3 and len(out) == 2:
        y = y[:, None]
    wanted = out if len(out) == 3 else (y.shape[1] if y.ndim == 4 else "C", *out)
    if y.ndim != 4 or tuple(y.shape[1:]) != wanted or len(y) < 1:
        sizes = ", ".join(map(str, ("N", *(out if len(out) == 3 else ("C", *out)))))
        raise ValueError(
            f"y must have the shape of the operator's measurements ({sizes}), got {tuple(y.shape)}"
        )
    return checks.finite("y", y.to(device=device, dtype=torch.float32))


def _noise_level(sigma_y: Any, y: Tensor, noiseless: bool) -> Tensor:
    if not noiseless:
        return numbers_per_image("sigma_y", sigma_y, y)
    level = numbers_per_image("sigma_y", sigma_y, y, zero=True)
    if bool((level == 0).all()):
        return torch.zeros(1, 1, 1, 1, dtype=torch.float64, device=y.device)
    return numbers_per_image("sigma_y", sigma_y, y)


def check_model(model: Any, shape: tuple[int, ...], whose: str) -> None:
    """Refuse a model that was made or trained for other images than those that `whose` begins to tell of."""
    if isinstance(model, Network):
        check_fits(model, shape, whose)
    card = card_of(model)
    if card is None:
        return
    if tuple(card.value_range) != VALUE_RANGE:
        raise ValueError(
            f"model was trained for images in {list(card.value_range)}; methods of restoration take one for [-1, 1]"
        )
    if card.image_size is not None and tuple(card.image_size) != tuple(shape[-2:]):
        raise ValueError(
            f"{whose} {tuple(shape[-2:])}, the model was trained on {tuple(card.image_size)}: "
            f"resize one, or set model.image_size = None to try all the same"
        )
