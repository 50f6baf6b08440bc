"""Straight paths from noise to image: rectified flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from rust_diffusion import _native
from rust_diffusion.model.card import FLOW, card_of
from rust_diffusion.model.ema import averaged
from rust_diffusion.sampling.run import images_from_noise
from rust_diffusion.sampling.sampler import Keywords, sampler
from rust_diffusion.support import checks


@sampler
def flow_sample(
    model: Any,
    num_samples: int,
    image_shape: Sequence[int],
    device: str | torch.device,
    sample_steps: int = 30,
    *,
    solver: str = _native.FLOW_SOLVERS[0],
    shift: float = 1.0,
    **keywords: Unpack[Keywords],
) -> Tensor:
    """Draw images along straight paths (Lipman et al. 2023; Liu et al. 2023), with a model for "flow".

    At the share of noise s, x_s = (1 - s) x0 + s eps; the model is shown x_s and t = 1000 s, and gives eps - x0. The
    steps are those of diffusers' FlowMatchEulerDiscreteScheduler: s from 1 to 0.001 in equal strides, shifted, then 0.

    Parameters
    ----------
    model : network of the engine, EMA or callable
        Called as ``model(x_s, t)`` with t of shape (B,), float32.
    num_samples : int
        How many images.
    image_shape : sequence of int
        (C, H, W).
    device : str or torch.device
        Where to sample; the model must be there.
    sample_steps : int
        At least 1. Heun's method calls the model twice in each step but the last.
    solver : {"euler", "heun"}
        Of first or second order.
    shift : float
        Above 1, more of the steps are spent on much noise, as large images want it (Esser et al. 2024, equation 23).
    {keywords}

    {images}

    {raises}
    """
    steps = checks.integer("sample_steps", sample_steps, 1, _native.MAX_STEPS)
    solver = checks.choice("solver", solver, _native.FLOW_SOLVERS)
    shift = checks.number("shift", shift, 0.0)
    table = _native.Table.flow(steps, solver, shift)
    objective = keywords.get("objective") or _stated_objective(model)
    if objective != FLOW:
        raise ValueError(
            f"objective: flow_sample draws with a model that predicts the velocity ({FLOW!r}); "
            f"this one predicts {objective!r}, which the other samplers draw with"
        )
    keywords = {**keywords, "objective": objective}
    return images_from_noise("flow", table, model, num_samples, image_shape, device, keywords)


def _stated_objective(model: Any) -> str:
    """What the model was trained for, if that is known."""
    card = card_of(averaged(model))
    return card.objective if card is not None and card.certainty("objective") == "stated" else FLOW
