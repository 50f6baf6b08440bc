"""The methods and what they are compared with, each with its cost."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import click
import torch
from torch import Tensor
from tqdm.auto import tqdm

from rust_diffusion import _native
from rust_diffusion.cli.inputs import read_images
from rust_diffusion.cli.main import on_terminal
from rust_diffusion.cli.options import arguments_of, flag_of, given, option_of, together
from rust_diffusion.cli.restoring.measurements import Measurements
from rust_diffusion.inverse.denoising import R2, denoising_error
from rust_diffusion.inverse.operator import Operator
from rust_diffusion.inverse.posterior import Posterior, at_once, posterior
from rust_diffusion.inverse.restoring import METHODS
from rust_diffusion.inverse.samplers import (
    STYLES,
    daps_sample,
    diffpir_sample,
    dps_sample,
    mmps_sample,
)
from rust_diffusion.model.card import schedule_of
from rust_diffusion.model.network import Network
from rust_diffusion.sampling.arguments import PRECISIONS
from rust_diffusion.sampling.sampler import usual_steps

#: What needs no network.
BASELINES = ("tv", "fbp")
#: Ends of the interval whose coverage is told, and the share of pixels that it should hold.
INTERVAL, SHARE = (0.05, 0.95), 0.9
#: Arguments of the methods; not each of them takes each.
_OF_METHODS = (
    *("sample_steps", "eta", "scale", "guide_below", "lambda_", "zeta"),
    *("cg_steps", "style", "r2", "widen"),
)

about_methods = together(
    click.option(
        "--method",
        type=click.Choice([*METHODS, *BASELINES]),
        default=next(iter(METHODS)),
        show_default=True,
        help="How to reconstruct; tv and fbp need no weights.",
    ),
    option_of(posterior, "num_samples", "Draws for each measurement.", alias="--samples"),
    click.option(
        *("--sample-steps", "--steps", "sample_steps"),
        type=int,
        help="Steps of each draw.  [default: the method's]",
    ),
    option_of(
        posterior, "batch_size", "Draws computed at a time.  [default: all of a measurement]", type=int
    ),
    option_of(daps_sample, "r2", "daps, pigdm: the variance of x0 given x_t.", choices=R2),
    click.option(
        "--held-out",
        help="daps, pigdm: measure the denoiser's own error on these images, for --r2: a folder, a glob in quotes, "
        "phantoms[:N[:SEED]]. Draws are better calibrated so.",
    ),
    option_of(
        daps_sample,
        "widen",
        "daps: trust the network less where the measurement shows that it is further off than --r2 or --held-out say.",
    ),
    option_of(
        daps_sample,
        "precision",
        "What the network's products are computed in; fp16 is for GPUs.",
        choices=PRECISIONS,
    ),
    click.option(
        "--eta", type=float, help="dps, ddnm, pigdm, mmps: share of fresh noise.  [default: the method's]"
    ),
    option_of(dps_sample, "scale", "dps: of the guidance.  [default: what follows from --sigma]", type=float),
    option_of(dps_sample, "guide_below", "dps: guide where the noise is at most so many times the signal."),
    option_of(diffpir_sample, "lambda_", "diffpir: how much the denoiser counts."),
    option_of(diffpir_sample, "zeta", "diffpir: share of fresh noise."),
    option_of(mmps_sample, "cg_steps", "mmps: steps of conjugate gradients."),
    option_of(dps_sample, "style", "dps, diffpir: the paper's, or the loop of the course.", choices=STYLES),
    click.option(
        "--tv-weight",
        type=click.FloatRange(min=0, min_open=True, max=1e12),
        help="Of total variation.  [default: the best for a known truth, else the one whose misfit is the noise's]",
    ),
)


class Draws(NamedTuple):
    """What the draws of a method say, over all N measurements; `samples` of few are kept."""

    std: Tensor
    low: Tensor
    high: Tensor
    #: The first draw of each measurement, and |K x - y|^2 / (m sigma_y^2) of it, (N,).
    one: Tensor
    chi2: Tensor
    #: All of them, (N, num_samples, C, H, W), if they were asked for.
    samples: Tensor | None


@dataclass(frozen=True)
class Reconstruction:
    """Images that a method made of the measurements, and what it took."""

    name: str
    images: Tensor
    seconds: float
    #: What else there is to say of the method in a table.
    how: str = ""
    #: Passes through the network for each measurement.
    calls: int = 0
    #: How many draws the images are the mean of; 0 of a method that does not draw.
    count: int = 0
    draws: Draws | None = None


def drawn(
    context: click.Context, model: Network, operator: Operator, measured: Measurements
) -> Reconstruction:
    """Many draws for each measurement, with the method that the options name."""
    name, count = context.params["method"], context.params["num_samples"]
    if measured.sigma is None:
        raise click.UsageError(
            f"--method {name} needs --sigma, the standard deviation of the measurements' noise"
        )
    if name != "ddnm" and not measured.noisy:
        raise click.UsageError(
            f"--method {name} needs noise: --sigma or --noise-level above 0 (ddnm takes 0)"
        )
    bars = torch.cumprod(1 - schedule_of(model), dim=0)
    options = _options(context, model, bars, (operator.nx, operator.ny))
    start, calls, found = time.perf_counter(), 0, []
    batches = -(-count // max(context.params["batch_size"] or at_once(count, options), 1))
    total = len(measured.y) * batches * options["sample_steps"]
    with tqdm(total=total, desc=name.upper(), unit="step", disable=not on_terminal()) as bar:

        def told(step: Any) -> None:
            nonlocal calls
            calls += len(step.x)
            bar.update()

        # one measurement after the other, with the seeds that they would have together
        for k, y in enumerate(measured.y.split(1)):
            seed = context.params["seed"] + k * count
            fixed = {
                "sigma_y": measured.sigma[k : k + 1],
                "seed": seed,
                "callback": told,
                "quantiles": INTERVAL,
            }
            more = {"num_samples": count, "keep": True, **given(context, ("batch_size",))}
            one = posterior(
                name, model, y, operator, bars, context.params["device"], **fixed, **more, **options
            )
            assert one.samples is not None
            kept = one.samples if context.params["keep_samples"] else one.samples[:, :1].clone()
            found.append(dataclasses.replace(one, samples=kept))
    seconds = time.perf_counter() - start
    images = torch.cat([one.mean for one in found]).cpu()
    calls //= len(found)
    return Reconstruction(name, images, seconds, f"mean of {count}", calls, count, _together(found, context))


def _together(found: Sequence[Posterior], context: click.Context) -> Draws:
    """What was found of each measurement as one."""
    samples = torch.cat([one.samples for one in found if one.samples is not None]).cpu()
    low, high = (torch.cat([one.quantiles[k] for one in found]).cpu() for k in range(2))
    return Draws(
        std=torch.cat([one.std for one in found]).cpu(),
        low=low,
        high=high,
        one=samples[:, 0],
        chi2=torch.cat([one.residual[:, 0] for one in found]),
        samples=samples if context.params["keep_samples"] else None,
    )


def _options(context: click.Context, model: Network, bars: Tensor, shape: tuple[int, int]) -> dict[str, Any]:
    """Return what the user says about the method; the rest is for the method to decide."""
    name = context.params["method"]
    options, takes = given(context, _OF_METHODS), arguments_of(METHODS[name])
    held_out = context.params["held_out"]
    asked = {option: flag_of(option) for option in options}
    if held_out is not None:
        asked["r2"] = "--held-out"
    for option, words in asked.items():
        if option not in takes:
            others = [other for other, function in METHODS.items() if option in arguments_of(function)]
            raise click.UsageError(f"{words} is not for --method {name}, only for {', '.join(others)}")
    if held_out is not None:
        if "r2" in options:
            raise click.UsageError("give either --r2 or --held-out")
        images = read_images(context, "--held-out", held_out, shape, channels=model.in_channels)
        options["r2"] = denoising_error(
            model,
            images,
            bars,
            context.params["device"],
            seed=context.params["seed"],
            local=True,
            progress=on_terminal(),
        )
    usual = min(usual_steps(METHODS[name]), len(bars))
    return {"sample_steps": usual, **options, **given(context, ("precision",))}


def residual_of(operator: Operator, images: Tensor, measured: Measurements) -> Tensor:
    """|K x - y|^2 / (m sigma^2) of each image, float64: 1 where it is off by as much as the noise."""
    assert measured.sigma is not None
    sigma = measured.sigma.view(-1, 1, 1, 1)
    return _native.residual(operator._core, images, operator._linear(measured.y), sigma)
