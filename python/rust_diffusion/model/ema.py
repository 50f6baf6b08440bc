"""The exponential moving average of a model's weights."""

from __future__ import annotations

import copy
from typing import Any, Generic

from torch import Tensor, nn
from typing_extensions import TypeVar

from rust_diffusion import _native
from rust_diffusion.model import verbs
from rust_diffusion.model.card import ModelCard, card_of
from rust_diffusion.model.unet import DiffusionUNet
from rust_diffusion.support import checks

_M = TypeVar("_M", bound=nn.Module, default=DiffusionUNet)


class EMA(Generic[_M]):
    """Exponential moving average of a model's weights: shadow = decay * shadow + (1 - decay) * weights.

    Parameters
    ----------
    model : DiffusionUNet
        The model to follow (or one wrapped in DistributedDataParallel). The shadow starts as a copy of it.
    decay : float
        Between 0 and 1. The share of the initial weights left after n updates is ``decay ** n``.
    """

    decay: float
    shadow: _M

    def __init__(self, model: _M, decay: float = 0.9999) -> None:
        self.decay = checks.number("decay", decay, 0.0, 1.0)
        model = unwrap(model)
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        self.shadow = copy.deepcopy(model).eval().requires_grad_(False)
        if not hasattr(self.shadow, "card"):
            # any module may be averaged; samplers, which are given the shadow alone, look here
            shadow: Any = self.shadow
            shadow.card = ModelCard()
        self._initial_share: float | None = 1.0
        card = card_of(self.shadow)
        if card is not None:
            # nothing is averaged yet: the shadow is as good as the model, whatever that is
            card.initial_share = None

    def update(self, model: nn.Module) -> None:
        """Move the shadow towards the weights of `model`, in place."""
        model = unwrap(model)
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        _native.ema_update(list(self.shadow.parameters()), list(model.parameters()), self.decay)
        if self.initial_share is not None:
            self.initial_share *= self.decay

    @property
    def initial_share(self) -> float | None:
        """The share of the shadow that is still the weights it began with, decay ** n; None if not known."""
        return self._initial_share

    @initial_share.setter
    def initial_share(self, share: float | None) -> None:
        self._initial_share = share
        card = card_of(self.shadow)
        if card is not None:
            card.initial_share = share

    def eps(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the noise in `x` by the averaged weights, whatever they were trained for: see `as_eps`."""
        return verbs.lent("eps")(self.shadow, x, t)

    def x0(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the clean images behind `x` by the averaged weights: see `as_eps`."""
        return verbs.lent("x0")(self.shadow, x, t)

    def state_dict(self) -> dict[str, Any]:
        """``{"decay": float, "shadow": state dict}``."""
        return {"decay": self.decay, "shadow": self.shadow.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take decay and shadow from what `state_dict` returned.

        Raises
        ------
        ValueError
            If a key is missing. RuntimeError if the shadow's keys or shapes do not fit.
        """
        if not isinstance(state_dict, dict):
            raise TypeError(f"state_dict must be a dict, got {type(state_dict).__name__}")
        missing = [key for key in ("decay", "shadow") if key not in state_dict]
        if missing:
            raise ValueError(f"state_dict must have the keys 'decay' and 'shadow', {missing[0]!r} is missing")
        decay = checks.number("decay", state_dict["decay"], 0.0, 1.0)
        self.shadow.load_state_dict(state_dict["shadow"])
        self.initial_share = None
        self.decay = decay


def averaged(model: Any) -> Any:
    """Return the averaged weights that an `EMA` holds; any other model as it is."""
    return model.shadow if isinstance(model, EMA) else model


def unwrap(model: Any) -> Any:
    """Return the model inside DistributedDataParallel."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
