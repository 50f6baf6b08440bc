"""The way of one image from noise to slice: what the sampler saw, took it for, and found in it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from rust_diffusion.model.card import schedule_of, size_of
from rust_diffusion.model.network import Network
from rust_diffusion.sampling import SamplerStep
from rust_diffusion.sampling.sampler import SAMPLERS
from rust_diffusion.support import checks
from rust_diffusion.view.pictures import draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Times of the flow models: t = 1000 s.
_FLOW_SCALE = 1000.0
#: Columns of the figure, at most, and inches of one image.
_COLUMNS, _SIDE = 6, 1.7
PARTS = ("x_t", "x0_hat", "noise estimate")


class Stop(NamedTuple):
    """One stop on the way; each image is (C, H, W)."""

    timestep: float
    #: What the network was shown.
    x_t: Tensor
    #: The clean image that it was taken for.
    x0_hat: Tensor
    #: The noise that is then in it, in standard deviations.
    eps_hat: Tensor

    @property
    def images(self) -> tuple[Tensor, Tensor, Tensor]:
        """As `PARTS` names them, scaled to be shown: noise of three standard deviations is black or white."""
        return self.x_t, self.x0_hat, self.eps_hat / 3


@dataclass
class Trajectory:
    """All stops, and the image at the end, (C, H, W)."""

    sampler: str
    stops: list[Stop]
    result: Tensor

    def figure(self) -> Figure:
        """Some of the stops beside each other: x_t above x0_hat above the noise estimate."""
        import matplotlib.pyplot as plt

        count = min(_COLUMNS, len(self.stops))
        chosen = [round(k * (len(self.stops) - 1) / max(count - 1, 1)) for k in range(count)]
        fig, axes = plt.subplots(
            3, count, figsize=(_SIDE * count + 0.6, 3 * _SIDE + 0.8), squeeze=False, layout="constrained"
        )
        for column, index in enumerate(chosen):
            stop = self.stops[index]
            for row, image in enumerate(stop.images):
                draw(axes[row, column], image, f"t = {stop.timestep:.4g}" if row == 0 else "")
        for row, part in enumerate(PARTS):
            axes[row, 0].axis("on")
            axes[row, 0].set(xticks=[], yticks=[], ylabel=part)
        fig.suptitle(f"{self.sampler.upper()}, {len(self.stops)} steps")
        return fig


def follow(model: Network, sampler: str, seed: int, image_size: Any = None, **options: Any) -> Trajectory:
    """Draw one image and keep what is on its way.

    Parameters
    ----------
    model : network of the engine
        With the schedule it was trained with.
    sampler : str
        One of `SAMPLERS`.
    seed : int
        Of the start and of all noise.
    image_size : int or (int, int), optional
        Default: what the model was trained on.
    **options
        The sampler's own.
    """
    function = SAMPLERS[checks.choice("sampler", sampler, tuple(SAMPLERS))]
    shape = (1, model.in_channels, *size_of(model, image_size))
    generator = torch.Generator().manual_seed(checks.integer("seed", seed, 0, 2**63 - 1))
    device = next(model.parameters()).device
    start = torch.randn(shape, generator=generator, dtype=torch.float32)
    alpha_bars = None if "alpha_bars" not in inspect.signature(function).parameters else _alpha_bars(model)
    stops: list[Stop] = []
    x_t = [start]

    def keep(step: SamplerStep) -> None:
        before, x0_hat = x_t[0], step.x0_hat.cpu()
        stops.append(
            Stop(step.timestep, before[0], x0_hat[0], _noise(before, x0_hat, step.timestep, alpha_bars)[0])
        )
        x_t[0] = step.x.cpu()

    result = model.sample(
        1,
        sampler,
        x_T=start.to(device),
        generator=generator if device.type == "cpu" else torch.Generator(device).manual_seed(seed),
        image_size=image_size,
        progress=False,
        callback=keep,
        **options,
    )
    return Trajectory(sampler, stops, result[0].cpu())


def _alpha_bars(model: Network) -> Tensor:
    return torch.cumprod(1 - schedule_of(model), 0)


def _noise(x_t: Tensor, x0_hat: Tensor, timestep: float, alpha_bars: Tensor | None) -> Tensor:
    """The eps that makes `x_t` of `x0_hat`."""
    if alpha_bars is None:
        share = timestep / _FLOW_SCALE
        return (x_t - (1 - share) * x0_hat) / share
    alpha_bar = alpha_bars[round(timestep)]
    return (x_t - alpha_bar.sqrt() * x0_hat) / (1 - alpha_bar).sqrt()
