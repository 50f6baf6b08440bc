"""The arguments that the samplers share, checked, and the model as the engine takes it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.autocast_mode import is_autocast_available

from rust_diffusion import _native
from rust_diffusion.model.card import (
    FLOW,
    OBJECTIVES,
    objective_of,
    warn_of_initial_weights,
    warn_of_other_schedule,
)
from rust_diffusion.model.ema import averaged
from rust_diffusion.model.network import AUTOCAST, Network, check_fits, tensor_of
from rust_diffusion.sampling import noise
from rust_diffusion.sampling.sampler import Keywords, completed
from rust_diffusion.support import checks, graphs, guards, random

PRECISIONS = _native.PRECISIONS


class Arguments:
    """The checked arguments that all samplers share."""

    def __init__(
        self, model: Any, num_samples: Any, image_shape: Any, device: Any, keywords: Keywords, caller: str
    ) -> None:
        keywords = completed(caller, keywords)
        self.device = checks.device("device", device)
        count = checks.integer("num_samples", num_samples, 1)
        shape = checks.integers("image_shape", image_shape, 1)
        if len(shape) != 3:
            raise ValueError(f"image_shape must be (C, H, W), got {tuple(shape)}")
        self.shape = [count, *shape]
        model = averaged(model)
        objective = keywords["objective"]
        self.objective = objective_of(model) if objective is None else objective
        checks.choice("objective", self.objective, OBJECTIVES)
        self.clip = checks.flag("clip", keywords["clip"])
        self.progress, self.callback = keywords["progress"], keywords["callback"]
        generator, seed, x_T = keywords["generator"], keywords["seed"], keywords["x_T"]
        self.noise = noise.source(generator, seed, count, self.device)
        in_training = isinstance(model, nn.Module) and model.training
        self.dropout_seed = None if seed is None or not in_training else noise.seeds_of(seed, count)[0]
        self.x_T = None if x_T is None else _start(x_T, self.shape, self.device)
        precision = checks.choice("precision", keywords["precision"], PRECISIONS)
        if precision == PRECISIONS[0] and isinstance(model, Network):
            precision = _under_autocast(self.device)
        if precision == "fp16" and self.device.type == "cpu":
            raise ValueError("precision 'fp16' needs a GPU; on the CPU take 'fp32' or 'bf16'")
        graphs_asked = keywords["cuda_graphs"]
        if graphs_asked is not None:
            graphs_asked = checks.flag("cuda_graphs", graphs_asked)
        self.model = _denoiser(model, self.shape, self.device, precision, graphs_asked)
        warn_of_initial_weights(model)
        self._given = model

    def look_at(self, table: _native.Table) -> None:
        """Say so where the model knows other timesteps than those of the table."""
        if self.objective != FLOW:
            warn_of_other_schedule(self._given, table.questions)

    def advice(self) -> str:
        """What to do when the images do not fit into memory."""
        return guards.try_batch_of(
            self.shape[0],
            "{0}, in several calls or by model.sample(..., batch_size={0}); with seed= they stay the same",
        )

    @contextlib.contextmanager
    def modes(self) -> Iterator[None]:
        """What holds while images are drawn: our network has modes of its own, another one keeps the caller's.

        A model in training mode draws dropout from torch's generator; with a seed, the same masks each time.
        """
        with contextlib.ExitStack() as stack:
            if isinstance(self.model, tuple):
                stack.enter_context(guards.own_modes(self.device))
            if self.dropout_seed is not None:
                stack.enter_context(random.seeded(self.dropout_seed, self.device))
            yield

    def start(self) -> Tensor:
        if self.x_T is not None:
            return self.x_T
        if self.noise is not None:
            return self.noise(self.shape)
        return torch.randn(self.shape, device=self.device, dtype=torch.float32)


def timesteps_of(alpha_bars: Any, sample_steps: Any, timesteps: Any, spacing: Any) -> list[int]:
    """Return the timesteps to visit, decreasing: those that are given, or `sample_steps` spread over the schedule."""
    total = schedule_length(alpha_bars)
    if timesteps is not None:
        return checks.integers("timesteps", timesteps)
    spacing = checks.choice("spacing", spacing, _native.SPACINGS)
    return _native.timestep_grid(total, checks.integer("sample_steps", sample_steps), spacing)


def schedule_length(alpha_bars: Any) -> int:
    """Return T, after a look at what is given for the schedule."""
    if not hasattr(alpha_bars, "shape"):
        raise TypeError(
            f"alpha_bars must be a torch.Tensor or a NumPy array, got {type(alpha_bars).__name__}"
        )
    return len(checks.alpha_bars("alpha_bars", alpha_bars))


def _under_autocast(device: torch.device) -> str:
    """Return the precision that the caller's autocast asks for, float32 without one."""
    known = is_autocast_available(device.type)
    if not known or not torch.is_autocast_enabled(device.type):
        return PRECISIONS[0]
    dtype = torch.get_autocast_dtype(device.type)
    if dtype == torch.float16 and device.type != "cpu":
        return "fp16"
    return "bf16" if dtype == torch.bfloat16 else PRECISIONS[0]


def _start(x_T: Any, shape: list[int], device: torch.device) -> Tensor:
    x = checks.tensor("x_T", x_T)
    if list(x.shape) != shape:
        raise ValueError(f"x_T must have shape {tuple(shape)}, got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"x_T must be a floating-point tensor, got {x.dtype}")
    return checks.finite("x_T", x).detach().to(device=device, dtype=torch.float32)


def _denoiser(
    model: Any, shape: list[int], device: torch.device, precision: str, cuda_graphs: bool | None
) -> Any:
    """Our own network runs without Python between the steps; anything else is called."""
    if not callable(model):
        raise TypeError(
            f"model must be a DiffusionUNet or a callable (x_t, t) -> eps, got {type(model).__name__}"
        )
    if not isinstance(model, Network):
        return _called(model, device, precision)
    parameters = model._seen().parameters()
    if parameters[0].device != device:
        raise ValueError(f"model is on {parameters[0].device}, device is {device}: move one of them")
    if parameters[0].dtype != torch.float32:
        raise TypeError(f"model must hold float32 weights to sample, got {parameters[0].dtype}")
    check_fits(model, shape[1:], "image_shape is")
    if model._has_own_forward() or model._forward_hooks or model._forward_pre_hooks:
        return _called(model, device, precision)
    dropout = model._dropout_rate()
    # Dropout draws from the stream that the noise comes from, in turn with it.
    graph = None if dropout > 0 else graphs.new(device, cuda_graphs)
    return model._native, model._handed_over(parameters), dropout, precision, graph


def _called(model: Any, device: torch.device, precision: str) -> Callable[[Tensor, Tensor], Tensor]:
    """What is called in place of the engine's own network: in a short precision, a module under torch's autocast."""
    if precision == PRECISIONS[0]:
        return lambda x, t: _answer(model, x, t)
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"precision must be {PRECISIONS[0]!r} for a model that is no torch.nn.Module, got {precision!r}: what a "
            f"plain function computes in is its own affair"
        )

    def under_autocast(x: Tensor, t: Tensor) -> Tensor:
        # inside an autocast of the caller's torch would keep the weights that it casts, and miss when they change
        with torch.autocast(device.type, AUTOCAST[precision], cache_enabled=False):
            return _answer(model, x, t).float()

    return under_autocast


def _answer(model: Any, x: Tensor, t: Tensor) -> Tensor:
    """Call what stands in for the engine's own network; the sampler goes on from x, which may be the caller's tensor.

    A module may begin in place and works on a copy; a function is trusted and watched. The answer is copied, since the
    next one may come in the same memory, and samplers look back.
    """
    before = None if x.is_inference() else x._version
    answer = tensor_of(model(x.clone() if isinstance(model, nn.Module) else x, t)).clone()
    if before is not None and x._version != before:
        raise ValueError(
            "model must leave x_t as it is, which the sampler goes on from, but changed it in place: give it a copy, "
            "lambda x, t: model(x.clone(), t)"
        )
    return answer
