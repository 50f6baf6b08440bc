"""What makes a function a sampler: a name that others find it by, and the keywords that all samplers take."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, TypedDict, TypeVar

import torch
from torch import Tensor

from rust_diffusion import _native
from rust_diffusion.sampling.progress import SamplerStep

_F = TypeVar("_F", bound=Callable[..., Any])

#: Every sampler by its name, in the order in which they are defined: what `model.sample(sampler=...)` and the command
#: line choose from.
SAMPLERS: dict[str, Callable[..., Tensor]] = {}


class Keywords(TypedDict, total=False):
    """The keywords that all samplers take; they are described in `_PIECES`."""

    generator: torch.Generator | None
    x_T: Tensor | None
    seed: int | Sequence[int] | None
    objective: str | None
    precision: str
    clip: bool
    progress: bool
    callback: Callable[[SamplerStep], Any] | None
    cuda_graphs: bool | None


def _choices(names: Sequence[str]) -> str:
    return "{" + ", ".join(f'"{name}"' for name in names) + "}"


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

#: Pieces of the samplers' docstrings, by the names that stand for them in braces.
_PIECES = {
    "drawing": """\
model : DiffusionUNet, EMA or callable
    Called as ``model(x_t, t)`` with t of shape (B,): int64 timesteps, or float32 where a sampler or an objective asks
    between them; gives eps, or what `objective` says. A network of the engine runs without Python between the steps;
    its mode is left as it is. A function must leave x_t as it is.
num_samples : int
    How many images.
image_shape : sequence of int
    (C, H, W).
alpha_bars : Tensor
    The schedule, shape (T,).
device : str or torch.device
    Where to sample; the model must be there.""",
    "steps": """\
sample_steps : int
    Between 1 and T.""",
    "grid": f"""\
timesteps : sequence of int, optional
    A strictly decreasing list out of 0..T-1 to use instead of `sample_steps`. Each step leads to the next entry, the
    last to the clean image.
spacing : {_choices(_native.SPACINGS)}
    How `sample_steps` timesteps are spread: "course" truncates linspace(T-1, 0, n), the others are as diffusers
    names them.""",
    "keywords": f"""\
generator : torch.Generator, optional
    Source of all draws; torch's global generator of the device otherwise.
x_T : Tensor, optional
    Where to start, (num_samples, C, H, W), instead of standard normal noise.
seed : int or sequence of int, optional
    A stream of its own for each image, on the CPU: image k has seed ``seed + k`` (or ``seed[k]``), and so the
    same noise whatever the batch size and the device.
objective : {_choices(_native.OBJECTIVES)}, optional
    What the model predicts. Default: what it was trained for, "eps" if it does not say.
precision : {_choices(_native.PRECISIONS)}
    What a network of the engine computes its convolutions and matrix products in; the sampler's own arithmetic and
    the result stay float32. Any other ``torch.nn.Module`` is called under torch's autocast. bf16 is the fastest on CPUs
    and GPUs that have it; fp16 is for GPUs. Under the caller's autocast, "fp32" gives way to its dtype.
clip : bool
    Clamp each estimate of the clean image, and the result, to [-1, 1].
progress : bool
    Show a progress bar.
callback : callable, optional
    Called with a `SamplerStep` after each step.
cuda_graphs : bool, optional
    Capture the network's pass in a CUDA graph and replay it, on a GPU. Default: yes, unless the environment says
    ``RUST_DIFFUSION_CUDA_GRAPHS=0``.""",
    "images": """\
Returns
-------
Tensor
    Images in [-1, 1] (if `clip`), float32, (num_samples, C, H, W).""",
    "raises": """\
Raises
------
ValueError, TypeError
    If an argument cannot be used; the message names it.
MemoryError
    If the images do not fit; the message says how many to try.""",
}


def sampler(function: _F) -> _F:
    """Register ``{name}_sample`` under its name, and complete it as `with_keywords` does."""
    SAMPLERS[function.__name__.removesuffix("_sample")] = function
    return with_keywords()(function)


def usual_steps(function: Callable[..., Tensor]) -> int:
    """How many steps a sampler, or a method of restoration, takes unless it is told otherwise."""
    return int(inspect.signature(function).parameters["sample_steps"].default)


def with_keywords(*without: str) -> Callable[[_F], _F]:
    """Give a function's signature and docstring the shared keywords, but for those it has no use for.

    They take the place of ``**keywords`` in the signature. In docstrings, names of `_PIECES` in braces stand for texts.
    """

    def complete(function: _F) -> _F:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        shared = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=_annotation(name)
            )
            for name, default in DEFAULTS.items()
            if name not in without
        ]
        function.__signature__ = signature.replace(parameters=[*own, *shared])  # type: ignore[attr-defined]
        if function.__doc__ is not None:  # python -OO drops docstrings
            function.__doc__ = _filled(function.__doc__, without)
        return function

    return complete


def _filled(docstring: str, without: Sequence[str]) -> str:
    for name, piece in _PIECES.items():
        for left_out in without:
            piece = re.sub(rf"^{left_out} : .*\n(?:    .*\n?)*", "", piece, flags=re.MULTILINE)
        docstring = docstring.replace(f"{{{name}}}", piece.rstrip("\n").replace("\n", "\n    "))
    return docstring


def _annotation(name: str) -> str:
    return Keywords.__annotations__[name].__forward_arg__


def completed(caller: str, keywords: Keywords, without: Sequence[str] = ()) -> Keywords:
    """Return all of the keywords; one that the caller does not take is refused as Python would refuse it."""
    for name in keywords:
        if name not in DEFAULTS or name in without:
            raise TypeError(f"{caller}() got an unexpected keyword argument {name!r}")
    return {**DEFAULTS, **keywords}
