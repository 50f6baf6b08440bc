"""What a prior has to beat: total variation, and filtered back projection."""

from __future__ import annotations

import time
from collections.abc import Callable

import click
from torch import Tensor
from tqdm.auto import tqdm

from rust_diffusion._native import denormalize_to_01
from rust_diffusion.cli.main import on_terminal
from rust_diffusion.cli.restoring.measurements import Measurements
from rust_diffusion.cli.restoring.methods import Reconstruction, residual_of
from rust_diffusion.inverse.baselines import CONVERGED, tv_reconstruct
from rust_diffusion.inverse.metrics import PSNR
from rust_diffusion.inverse.operator import Operator, UnitRange

#: Where the weight of total variation is looked for, in factors of 10, and how often it is tried.
_WEIGHTS, _TRIALS = (-5.0, 2.0), 9
#: A bar is shown of what takes longer than this, in seconds.
_PATIENCE = 2.0
_GOLDEN = (5**0.5 - 1) / 2


def weighs(context: click.Context, measured: Measurements) -> bool:
    """Whether a weight of total variation is given or can be found."""
    return context.params["tv_weight"] is not None or measured.truth is not None or measured.noisy


def by_total_variation(context: click.Context, operator: Operator, measured: Measurements) -> Reconstruction:
    """Total variation; of its weights the user's, or the best for a known truth, or the one that the noise suggests."""
    weight, truth, start = context.params["tv_weight"], measured.truth, time.perf_counter()

    bar = tqdm(total=_TRIALS, desc="TV", unit="weight", delay=_PATIENCE, disable=not on_terminal())

    def images(power: float) -> Tensor:
        made = tv_reconstruct(measured.y, operator, 10.0**power, CONVERGED)
        bar.update()
        return made

    if weight is not None:
        found, how = tv_reconstruct(measured.y, operator, weight, CONVERGED), ""
    elif truth is not None:
        pictures = denormalize_to_01(truth)
        found, how = _best(images, lambda x: PSNR(denormalize_to_01(x), pictures)), "best weight"
    elif measured.noisy:
        found, how = (
            _balanced(images, lambda x: float(residual_of(operator, x, measured).mean())),
            "by the noise",
        )
    else:
        raise click.UsageError("--method tv needs --tv-weight, or --sigma above 0 to find it")
    bar.close()
    return Reconstruction("tv", found, time.perf_counter() - start, how)


def _best(images: Callable[[float], Tensor], score: Callable[[Tensor], float]) -> Tensor:
    """Search for the power with the highest score by golden sections."""
    low, high = _WEIGHTS
    tried = {}

    def of(power: float) -> float:
        if power not in tried:
            made = images(power)
            tried[power] = (score(made), made)
        return tried[power][0]

    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    while len(tried) < _TRIALS:
        if of(left) > of(right):
            high, right, left = right, left, right - _GOLDEN * (right - low)
        else:
            low, left, right = left, right, left + _GOLDEN * (high - left)
    return max(tried.values(), key=lambda pair: pair[0])[1]


def _balanced(images: Callable[[float], Tensor], misfit: Callable[[Tensor], float]) -> Tensor:
    """Halve the range until the misfit is 1: Morozov's principle."""
    low, high = _WEIGHTS
    for _ in range(_TRIALS):
        middle = (low + high) / 2
        made = images(middle)
        low, high = (low, middle) if misfit(made) > 1 else (middle, high)
    return made


def by_back_projection(operator: Operator, measured: Measurements) -> Reconstruction:
    """Filtered back projection."""
    start, y = time.perf_counter(), measured.y
    # of pictures in [0, 1], which are dark where they are 0, or in [-1, 1]
    unit = isinstance(operator, UnitRange)
    images = 2 * operator._of.FBP(y) - 1 if unit else operator.FBP(y, background=-1.0)
    return Reconstruction("fbp", images, time.perf_counter() - start)
