"""What makes a function a sampler: a name that others find it by, and the keywords that all samplers take."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypedDict, TypeVar

import torch
from torch import Tensor

from rust_diffusion import _native
from rust_diffusion.sampling.progress import SamplerStep

_F = TypeVar("_F", bound=Callable[..., Tensor])

#: Every sampler by its name, in the order in which they are defined: what `model.sample(sampler=...)` and the command
#: line choose from.
SAMPLERS: dict[str, Callable[..., Tensor]] = {}


class Keywords(TypedDict, total=False):
    """The keywords that all samplers take; they are described in `_TEXT`."""

    generator: torch.Generator | None
    x_T: Tensor | None
    seed: int | Sequence[int] | None
    objective: str | None
    precision: str
    clip: bool
    progress: bool
    callback: Callable[[SamplerStep], Any] | None
    cuda_graphs: bool | None


DEFAULTS = Keywords(
    generator=None,
    x_T=None,
    seed=None,
    objective=None,
    precision=_native.PRECISIONS[0],
    clip=True,
    progress=True,
    callback=None,
    cuda_graphs=None,
)

_TEXT = f"""\
generator : torch.Generator, optional
    Source of all draws; torch's global generator of the device otherwise.
x_T : Tensor, optional
    Where to start, (num_samples, C, H, W), instead of standard normal noise.
seed : int or sequence of int, optional
    A stream of its own for each image, on the CPU: image k has seed ``seed + k`` (or ``seed[k]``) and is the same
    whatever the batch size and the device.
objective : {{{", ".join(f'"{name}"' for name in _native.OBJECTIVES)}}}, optional
    What the model predicts. Default: what it was trained for, "eps" if it does not say.
precision : {{{", ".join(f'"{name}"' for name in _native.PRECISIONS)}}}
    What a DiffusionUNet computes its convolutions and matrix products in; the sampler's own arithmetic and the
    result stay float32. bf16 is the fastest on CPUs and GPUs that have it; fp16 is for GPUs. Under the caller's
    autocast, "fp32" gives way to its dtype.
clip : bool
    Clamp each estimate of the clean image, and the result, to [-1, 1].
progress : bool
    Show a progress bar.
callback : callable, optional
    Called with a `SamplerStep` after each step.
cuda_graphs : bool, optional
    Capture the network's pass in a CUDA graph and replay it, on a GPU. Default: off, unless the environment says
    ``RUST_DIFFUSION_CUDA_GRAPHS=1``."""


def sampler(function: _F) -> _F:
    """Register ``{name}_sample`` under its name; its docstring and signature get the shared keywords.

    They take the place of ``{keywords}`` in the docstring, and of ``**keywords`` in the signature.
    """
    SAMPLERS[function.__name__.removesuffix("_sample")] = function
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=_annotation(name))
        for name, default in DEFAULTS.items()
    ]
    function.__signature__ = signature.replace(parameters=[*own, *shared])  # type: ignore[attr-defined]
    if function.__doc__ is not None:  # python -OO drops docstrings
        indented = _TEXT.replace("\n", "\n    ")
        function.__doc__ = function.__doc__.replace("{keywords}", indented)
    return function


def _annotation(name: str) -> str:
    return Keywords.__annotations__[name].__forward_arg__


def completed(caller: str, keywords: Keywords) -> Keywords:
    """Return all of the keywords; one that no sampler takes is refused as Python would refuse it."""
    for name in keywords:
        if name not in DEFAULTS:
            raise TypeError(f"{caller}() got an unexpected keyword argument {name!r}")
    return {**DEFAULTS, **keywords}
