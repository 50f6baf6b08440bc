"""What a network says of noisy images, as noise or as clean images, whatever it was trained for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rust_diffusion import _native
from rust_diffusion.model import verbs
from rust_diffusion.model.card import OBJECTIVES, card_of, objective_of
from rust_diffusion.model.ema import averaged, unwrap
from rust_diffusion.model.network import answer_to, tensor_of
from rust_diffusion.support import checks

EPS, X0 = OBJECTIVES[:2]


class Reading:
    """A model as a denoiser ``(x_t, t) -> eps``, whatever it was trained for; made by `as_eps`."""

    #: What samplers are told that it predicts.
    objective = EPS

    def __init__(self, model: Any, alpha_bars: Any, objective: Any) -> None:
        model = unwrap(averaged(model))
        if not callable(model):
            raise TypeError(f"model must be a callable (x_t, t) -> prediction, got {type(model).__name__}")
        self._model = model
        self._trained_for = checks.choice(
            "objective", objective_of(model) if objective is None else objective, OBJECTIVES
        )
        betas = getattr(card_of(model), "betas", None)
        if alpha_bars is None and betas is not None:
            alpha_bars = torch.cumprod(1 - betas, dim=0)
        self._alpha_bars = None if alpha_bars is None else checks.alpha_bars("alpha_bars", alpha_bars)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the noise in `x`: see `eps`."""
        return self.eps(x, t)

    def eps(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the noise in `x`: see `DiffusionUNet.eps`."""
        return self._said(x, t, EPS)

    def x0(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the clean images behind `x`: see `DiffusionUNet.x0`."""
        return self._said(x, t, X0)

    def _said(self, x: Tensor, t: Tensor, what: str) -> Tensor:
        if self._trained_for == what:
            return answer_to(x, self._model(x, t))
        about = x, t, self._alpha_bars, self._trained_for
        answer = tensor_of(self._model(*_native.asked(*about)))
        x0, eps = _native.answered(*about, answer)
        return eps if what == EPS else x0


def as_eps(model: Any, alpha_bars: Any = None, *, objective: str | None = None) -> Reading:
    """Make a denoiser ``(x_t, t) -> eps`` of a model, whatever it was trained for.

    The result can be called, sampled from, and asked for clean images with ``.x0(x_t, t)``. Gradients flow to x_t and
    to the model's weights.

    Parameters
    ----------
    model : DiffusionUNet, UNet2DModel, EMA or callable
        Called as ``model(x_t, t)``; its mode is left as it is.
    alpha_bars : Tensor, optional
        The schedule, (T,), in (0, 1] and nowhere rising. Default: the one the model was trained with. Nobody needs it
        who asks for what the model predicts anyway.
    objective : {"eps", "x0", "v", "flow"}, optional
        What the model predicts. Default: what it was trained for, "eps" if it does not say.

    Returns
    -------
    callable
        Called with x_t, (B, C, H, W), and timesteps t of the schedule, integers of shape (B,). A model for "flow" is
        asked about x_t at the same ratio of signal to noise on its own straight path; with floating-point t, a
        thousand times the share of noise, x_t is taken to lie on that path already.

    Raises
    ------
    ValueError, TypeError
        If an argument cannot be used; on a call, if x_t and t do not fit or the schedule is needed and not known.

    Examples
    --------
    >>> import rust_diffusion as rd, torch
    >>> alpha_bars = torch.cumprod(1 - rd.cosine_beta_schedule(100), dim=0)
    >>> eps = rd.as_eps(lambda x_t, t: torch.zeros_like(x_t), alpha_bars, objective="x0")
    >>> eps(torch.ones(1, 1, 8, 8), torch.tensor([99])).mean()
    tensor(1.0000)
    """
    return Reading(model, alpha_bars, objective)


@verbs.lend
def eps(model: Any, x: Tensor, t: Tensor) -> Tensor:
    """Return the noise in `x`: see `DiffusionUNet.eps`."""
    return as_eps(model).eps(x, t)


@verbs.lend
def x0(model: Any, x: Tensor, t: Tensor) -> Tensor:
    """Return the clean images behind `x`: see `DiffusionUNet.x0`."""
    return as_eps(model).x0(x, t)
