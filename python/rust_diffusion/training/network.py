"""The network to train: ours in the engine, any other through torch's autograd."""

from __future__ import annotations

import contextlib
import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from rust_diffusion.model.ema import unwrap
from rust_diffusion.model.network import AUTOCAST, Network, answer_to
from rust_diffusion.training.batches import Batches, InMemory


def check_model(model: Any) -> nn.Module:
    """A module called as ``model(x_t, t)`` with something to train: float32 and finite.

    Raises
    ------
    TypeError, ValueError
        If it is not; the message says what is wrong with it.
    """
    model = unwrap(model)
    if not isinstance(model, nn.Module):
        kind = type(model)
        raise TypeError(
            f"model must be a torch.nn.Module (x_t, t) -> prediction, got {kind.__module__}.{kind.__qualname__}"
        )
    _check_kind(model)
    _check_call(model)
    trained = trained_parameters(model)
    if not trained:
        raise ValueError("model must have trainable parameters, it has none with requires_grad=True")
    for key, parameter in trained.items():
        if parameter.dtype != torch.float32:
            raise TypeError(f"model must hold float32 weights to train, {key} is {parameter.dtype}")
        if not bool(parameter.isfinite().all()):
            raise ValueError(f"model must hold finite weights, {key} has NaN or infinity")
    return model


def _check_kind(model: nn.Module) -> None:
    """Refuse modules that cannot be averaged, or whose answer is known to be of another shape than the images."""
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            f"model must be a torch.nn.Module that is written in Python, got {type(model).__qualname__}, which torch "
            f"compiled (torch.jit): train the module that it was made of"
        )
    for key, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ValueError(
                f"model must be whole before it is trained, but {key} has no shape yet: call the lazy module once, "
                f"model(x_t, t)"
            )
    if isinstance(model, Network) and not model._has_own_forward():
        answers = model.config.get("out_channels", model.in_channels)
        if answers != model.in_channels:
            raise ValueError(
                f"model must return a tensor of the shape of x_t, but takes {model.in_channels} channels "
                f"(in_channels) and returns {answers} (out_channels)"
            )


def check_state(model: nn.Module) -> None:
    """Refuse a state that checkpoints, which hold nothing but tensors of a model, do not give back."""
    for key, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"model.state_dict() must hold tensors only to be kept in weights_dir, {key!r} is a "
                f"{type(value).__name__}: make it a buffer (register_buffer), or train without weights_dir"
            )


def _check_call(model: nn.Module) -> None:
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):
        return  # nothing is known of it: the first call will show
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise TypeError(
            f"model must take (x_t, t), but {type(model).__name__}.forward{signature} does not: {error}"
        ) from None


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Those that training changes; the others stay as they are."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def runs_in_engine(model: nn.Module) -> bool:
    """Whether the engine knows the forward pass and trains all of its weights."""
    return (
        isinstance(model, Network)
        and not model._has_own_forward()
        and all(parameter.requires_grad for parameter in model.parameters())
    )


def channels_of(model: nn.Module) -> int | None:
    """Channels of its images, if it says."""
    if isinstance(model, Network):
        return model.in_channels
    channels = getattr(getattr(model, "config", None), "in_channels", None)  # as diffusers' models do
    return channels if isinstance(channels, int) else None


def check_images(name: str, batches: Batches, model: nn.Module) -> None:
    """The shape of data in memory against the network; batches that come later are checked as they come."""
    if not isinstance(batches, InMemory):
        return
    channels, height, width = batches.images.shape[1:]
    if channels_of(model) not in (None, channels):
        raise ValueError(f"{name} must have the model's {channels_of(model)} channels, got {channels}")
    multiple = 1
    if isinstance(model, Network) and not model._has_own_forward():
        multiple = model.size_multiple
    if height % multiple or width % multiple or not height or not width:
        takes = f"multiples of {multiple} (one halving per level)"
        raise ValueError(f"height and width of {name} must be {takes}, got {height} x {width}")


def predict(model: nn.Module, x_t: Tensor, t: Tensor) -> Tensor:
    """The network's prediction for x_t as a tensor of its shape."""
    return answer_to(x_t, model(x_t, t))


class AutogradNetwork:
    """What the engine's loop calls in place of its own network: forward and backward through torch's autograd."""

    def __init__(self, model: nn.Module, precision: str) -> None:
        self._model = model
        self._parameters = list(trained_parameters(model).values())
        self._dtype = AUTOCAST.get(precision)
        self._prediction: Tensor | None = None

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the float32 prediction; what `backward` needs is kept."""
        self._prediction = None
        with torch.enable_grad(), self._precision(x_t.device):
            self._prediction = predict(self._model, x_t, t).float()
        return self._prediction.detach()

    def _precision(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        if self._dtype is None:
            return contextlib.nullcontext()
        # inside the run's own modes torch would keep the weights that it cast in the first step
        return torch.autocast(device.type, self._dtype, cache_enabled=False)

    def backward(self, d_prediction: Tensor) -> list[Tensor | None]:
        """Return d loss / d parameter from d loss / d prediction; None for a parameter that had no part in it."""
        prediction, self._prediction = self._prediction, None
        if prediction is None or not prediction.requires_grad:
            raise ValueError(
                "what model returned does not depend on its parameters: torch's autograd sees no way"
            )
        return list(torch.autograd.grad(prediction, self._parameters, d_prediction, allow_unused=True))
