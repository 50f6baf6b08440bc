"""How sure a reconstruction is: many draws for each measurement, summed up as they come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rust_diffusion import _native
from rust_diffusion.inverse.operator import Operator
from rust_diffusion.inverse.restoring import METHODS, Task
from rust_diffusion.inverse.samplers import STYLES
from rust_diffusion.support import checks

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Posterior:
    """What draws from the posterior say about each of N images."""

    #: The mean of the draws, (N, C, H, W): the estimate of least squared error.
    mean: Tensor
    #: Their standard deviation, (N, C, H, W); zero if there is only one.
    std: Tensor
    #: One tensor (N, C, H, W) per quantile asked for.
    quantiles: tuple[Tensor, ...]
    #: ``|K x - y|^2 / (m sigma_y^2)`` of every draw, (N, num_samples), float64: about 1 if it explains the measurement.
    residual: Tensor
    #: The draws, (N, num_samples, C, H, W), if they were to be kept.
    samples: Tensor | None

    def show(self, truth: Any = None) -> Figure:
        """Draw mean and standard deviation, and with `truth` (N, C, H, W) that and the error, one row per image."""
        import matplotlib.pyplot as plt

        columns = {"mean": self.mean, "std": self.std}
        if truth is not None:
            true = checks.tensor("truth", truth).detach().to(self.mean)
            if true.shape != self.mean.shape:
                raise ValueError(f"truth must have shape {tuple(self.mean.shape)}, got {tuple(true.shape)}")
            columns = {"truth": true, **columns, "error": (self.mean - true).abs()}
        fig, axes = plt.subplots(
            len(self.mean),
            len(columns),
            figsize=(2.4 * len(columns), 2.4 * len(self.mean) + 0.3),
            squeeze=False,
        )
        top = max(float(columns[name].max()) for name in columns if name in ("std", "error")) or 1.0
        for row, line in enumerate(axes):
            for axis, (name, images) in zip(line, columns.items(), strict=True):
                low, high, colours = (0.0, top, "magma") if name in ("std", "error") else (-1.0, 1.0, "gray")
                axis.imshow(images[row].mean(0).cpu(), cmap=colours, vmin=low, vmax=high)
                axis.set_title(name if row == 0 else "")
                axis.axis("off")
        fig.tight_layout()
        return fig


def posterior(
    sampler: str | Callable[..., Tensor],
    model: Any,
    y: Any,
    operator: Operator,
    alpha_bars: Tensor,
    device: str | torch.device,
    *,
    num_samples: int = 16,
    seed: int = 0,
    quantiles: Sequence[float] = (0.05, 0.95),
    keep: bool = False,
    batch_size: int | None = None,
    **options: Any,
) -> Posterior:
    """Draw `num_samples` reconstructions of each measurement and sum them up pixel by pixel.

    Parameters
    ----------
    sampler : str or callable
        A method, such as "daps" or `daps_sample`.
    model, y, operator, alpha_bars, device
        As for the method.
    num_samples : int
        Draws per measurement.
    seed : int
        Draw j of measurement i has seed ``seed + i * num_samples + j``: the same noise for any `batch_size`. A
        network's answers depend on the batch in their last bits, which methods amplify that solve systems: most "pigdm"
        and "mmps" on CT, where a draw may differ in its second decimal.
    quantiles : sequence of float
        Between 0 and 1, below which another draw would fall with that probability: quantile q is the q (n + 1)-th
        smallest of n draws (Hyndman and Fan 1996, type 6). (0.05, 0.95) are the ends of an interval that should hold
        the truth in 90 % of the pixels; of fewer than 19 draws they are the smallest and the largest, which should hold
        it in (n - 1) / (n + 1): 88 % for 16.
    keep : bool
        Keep all draws.
    batch_size : int, optional
        Images computed at a time. Default: `num_samples`, but 1 with ``style="course"``: the chapter's loss is a mean
        over all that is computed together, so that its guidance would weaken with their number.
    **options
        Of the method: `sigma_y`, `sample_steps` and so on.

    Returns
    -------
    Posterior
        `.mean`, `.std`, `.quantiles`, `.residual`, `.samples` and `.show(truth=None)`.

    Raises
    ------
    ValueError, TypeError
        If an argument cannot be used; the message names it.
    """
    draw = METHODS[checks.choice("sampler", sampler, tuple(METHODS))] if isinstance(sampler, str) else sampler
    if not callable(draw):
        raise TypeError(f"sampler must be a method or its name, got {type(sampler).__name__}")
    count = checks.integer("num_samples", num_samples, 1)
    size = at_once(count, options) if batch_size is None else checks.integer("batch_size", batch_size, 1)
    probabilities = checks.numbers("quantiles", quantiles, 0.0, 1.0)
    if "sigma_y" not in options:
        raise TypeError("posterior() needs sigma_y, the standard deviation of the measurements' noise")
    task = Task(model, y, operator, options["sigma_y"], device, noiseless=draw is METHODS["ddnm"])
    if "x_T" in options:
        raise TypeError("posterior() starts each draw from the noise of its own seed: leave x_T out")
    keep = checks.flag("keep", keep)
    first = checks.integer("seed", seed, -(2**63), 2**63 - 1 - len(task.y) * count)
    draws = _Draws(draw, task, (model, operator, alpha_bars, device), options, first)
    total = len(task.y) * count
    summary = _Summary(task, count, probabilities, keep)
    for start in range(0, total, size):
        for image in draws.between(start, min(start + size, total), count):
            summary.add(image)
    return summary.result()


def at_once(num_samples: int, options: Mapping[str, Any]) -> int:
    """How many images are computed at a time where nobody says."""
    return 1 if options.get("style") == STYLES[1] else num_samples


class _Draws:
    """Draws by their number: those of the first measurement, then those of the second."""

    def __init__(
        self,
        draw: Callable[..., Tensor],
        task: Task,
        fixed: tuple[Any, ...],
        options: dict[str, Any],
        seed: int,
    ) -> None:
        self._draw, self._fixed, self._seed = draw, fixed, seed
        shift = task.operator._shift
        self._y = task.y if shift is None else task.y + shift(task.y)
        self._sigma = task.sigma.view(-1)
        self._options = {"progress": False, **options}

    def between(self, start: int, end: int, count: int) -> Tensor:
        model, operator, alpha_bars, device = self._fixed
        numbers = torch.arange(start, end)
        whose = numbers // count
        sigma = self._sigma if len(self._sigma) == 1 else self._sigma[whose.to(self._sigma.device)]
        options = {**self._options, "sigma_y": sigma, "seed": (self._seed + numbers).tolist()}
        y = self._y[whose.to(self._y.device)]
        return self._draw(model, y, operator, alpha_bars, device, **options)


class _Summary:
    """Mean and variance by Welford's updates, image by image; draws are kept only for what needs them all at once."""

    def __init__(self, task: Task, count: int, probabilities: list[float], keep: bool) -> None:
        self._task, self._count, self._keep = task, count, keep
        self._places = torch.tensor([_place(q, count) for q in probabilities], dtype=torch.float32)
        #: Of the measurement at hand: how many draws were seen, and those that are kept.
        self._seen = 0
        self._now: list[Tensor] = []
        self._means: list[Tensor] = []
        self._stds: list[Tensor] = []
        self._quantiles: list[Tensor] = []
        self._samples: list[Tensor] = []
        self._residuals: list[Tensor] = []

    def add(self, image: Tensor) -> None:
        whose = len(self._means)
        one = slice(whose, whose + 1)
        sigma = self._task.sigma if len(self._task.sigma) == 1 else self._task.sigma[one]
        residual = _native.residual(self._task.operator._core, image[None], self._task.y[one], sigma)
        self._residuals.append(residual)
        self._seen += 1
        if self._seen == 1:
            self._mean, self._squares = image.double(), torch.zeros_like(image, dtype=torch.float64)
        else:
            step = image.double() - self._mean
            self._mean = self._mean + step / self._seen
            self._squares = self._squares + step * (image.double() - self._mean)
        if self._keep or len(self._places):
            self._now.append(image)
        if self._seen == self._count:
            self._finish()

    def _finish(self) -> None:
        self._means.append(self._mean.float())
        self._stds.append((self._squares / max(self._count - 1, 1)).sqrt().float())
        if self._now:
            draws = torch.stack(self._now)
            if len(self._places):
                self._quantiles.append(torch.quantile(draws, self._places.to(draws.device), dim=0))
            if self._keep:
                self._samples.append(draws)
        self._seen, self._now = 0, []

    def result(self) -> Posterior:
        quantiles = tuple(torch.stack(self._quantiles, 1)) if self._quantiles else ()
        return Posterior(
            mean=torch.stack(self._means),
            std=torch.stack(self._stds),
            quantiles=quantiles,
            residual=torch.cat(self._residuals).view(len(self._means), self._count),
            samples=torch.stack(self._samples) if self._keep else None,
        )


def _place(probability: float, count: int) -> float:
    """Where the quantile lies between the smallest of `count` draws, 0, and the largest, 1."""
    return min(max((probability * (count + 1) - 1) / max(count - 1, 1), 0.0), 1.0)
