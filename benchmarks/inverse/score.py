"""One method on one task: how good, how well calibrated, at what cost."""

from __future__ import annotations

import time
from dataclasses import dataclass

import rust_diffusion as rd
import torch
from rust_diffusion.inverse.baselines import CONVERGED
from rust_diffusion.operators import CTProjector
from rust_diffusion.utilities import PSNR, SSIM
from torch import Tensor

from benchmarks.inverse.methods import METHODS, VARIANTS, Method, total_variation
from benchmarks.inverse.prior import Prior
from benchmarks.inverse.tasks import TASKS


@dataclass
class Row:
    """A line of the table. What a method does not have is None."""

    task: str
    method: str
    images: int
    samples: int
    psnr: float
    ssim: float
    #: Of the mean of the samples.
    psnr_mean: float | None = None
    ssim_mean: float | None = None
    #: |K x - y|^2 / (m sigma^2) of a sample, averaged; 1 is what the noise itself has.
    chi2: float | None = None
    #: Share of the pixels whose truth lies between the 5 % and the 95 % quantile.
    coverage: float | None = None
    #: Passes through the network for one sample, and back through it.
    forward: int = 0
    backward: int = 0
    #: For one sample of one image.
    seconds: float = 0.0
    #: Of total variation.
    weight: float | None = None


def psnr(images: Tensor, truth: Tensor) -> float:
    """Return the mean over the images, as the chapter computes it: on [0, 1], clamped."""
    return PSNR(rd.denormalize_to_01(images), rd.denormalize_to_01(truth))


def ssim(images: Tensor, truth: Tensor) -> float:
    """Return the mean over the images, as the chapter computes it."""
    return SSIM(rd.denormalize_to_01(images), rd.denormalize_to_01(truth))


def without_prior(task: str, name: str, truth: Tensor) -> Row:
    """Measure total variation, or filtered back projection."""
    K, y, sigma = TASKS[task].measured(truth)
    start = time.perf_counter()
    weight = None
    if name == "tv":
        found, best = total_variation(y, K, lambda images: psnr(images, truth))
        weight = best["lambda"]
        start = time.perf_counter()
        rd.tv_reconstruct(y, K, weight, CONVERGED)
    else:
        scanner = TASKS[task].operator
        assert isinstance(scanner, CTProjector)
        found = 2 * scanner.FBP(y) - 1
    seconds = (time.perf_counter() - start) / len(truth)
    misfit = (K(found) - y).square().flatten(1).mean(1) / sigma.square()
    return Row(
        task,
        name,
        len(truth),
        1,
        psnr(found, truth),
        ssim(found, truth),
        chi2=float(misfit.mean()),
        seconds=seconds,
        weight=weight,
    )


def with_prior(
    task: str, name: str, truth: Tensor, prior: Prior, samples: int
) -> tuple[Row, rd.inverse.Posterior]:
    """Measure draws from the posterior, their mean, and the interval between their quantiles; return them too."""
    method = {**METHODS, **VARIANTS}[name]
    samples = 1 if method.sure else samples
    start = time.perf_counter()
    found = draws(task, method, truth, prior, samples)
    seconds = (time.perf_counter() - start) / (len(truth) * samples)
    assert found.samples is not None
    one, each = found.samples.flatten(0, 1), truth.repeat_interleave(samples, 0)
    row = Row(task, name, len(truth), samples, psnr(one, each), ssim(one, each), seconds=seconds)
    row.chi2 = float(found.residual.mean())
    row.forward, row.backward = method.steps, method.steps * method.backward
    if samples > 1:
        row.psnr_mean, row.ssim_mean = psnr(found.mean, truth), ssim(found.mean, truth)
        row.coverage = coverage(found, truth)
    return row, found


def draws(task: str, method: Method, truth: Tensor, prior: Prior, samples: int) -> rd.inverse.Posterior:
    """Draw reconstructions of the task's measurements of `truth` where the prior is; they come back on the CPU."""
    device = next(prior.model.parameters()).device
    K, y, sigma = TASKS[task].measured(truth)
    found = rd.posterior(
        method.sampler,
        prior.model,
        y.to(device),
        K,
        prior.alpha_bars,
        device,
        num_samples=samples,
        sigma_y=sigma,
        keep=True,
        **method.keywords(prior),
    )
    assert found.samples is not None
    return rd.inverse.Posterior(
        mean=found.mean.cpu(),
        std=found.std.cpu(),
        quantiles=tuple(quantile.cpu() for quantile in found.quantiles),
        residual=found.residual.cpu(),
        samples=found.samples.cpu(),
    )


def coverage(found: rd.inverse.Posterior, truth: Tensor) -> float:
    """Return the share of the pixels whose truth lies between the posterior's two quantiles, ends included."""
    low, high = found.quantiles
    return float(torch.logical_and(low <= truth, truth <= high).double().mean())
